"""Answers by a JSON Schema: whatever a model would like to say, what it says follows the schema, and ends where that may end."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.openai.scripted_model import END, TOKEN_BYTES, any_logits
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from hooke import UsageError
from hooke.serving.openai.constraints import TokenConstraints, constraining_grammar, read_format
from hooke.serving.openai.sampling import TokenChooser, TokenSampling
from hooke.serving.problems import WrongField

CONSTRAINTS = TokenConstraints(TOKEN_BYTES, {END})
MOST = 1500


def answer(
    schema: dict,
    seed: int,
    temperature: float,
    *,
    most: int = MOST,
    constraints: TokenConstraints = CONSTRAINTS,
    texts: Sequence[bytes] = TOKEN_BYTES,
) -> tuple[bytes, int, bool]:
    """What a model of random logits says, in how many tokens, and whether it has ended. The end of these tokens is END."""
    constraint = constraints.constraint(constraining_grammar(schema, None, None), "schema")
    chooser = TokenChooser(TokenSampling(temperature=temperature, seed=seed))
    tokens: list[int] = []
    ended = False
    while not ended and len(tokens) < most:
        logits = any_logits(tokens[-8:], seed + len(tokens), len(texts))
        logits[END] += 2
        token = chooser.choose(logits, tokens, 0, constraint.allowed(logits.size)).token
        ended = token == END or constraint.take(token)
        tokens += [token] * (token != END)
    return b"".join(texts[each] for each in tokens), len(tokens), ended


def bounds(low, high, least, most):
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(
        lambda pair: {least: min(pair), most: max(pair)}
    )


WORDS = st.text("abcäπ{}\"\\ '", min_size=1, max_size=5)
LEAVES = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
    bounds(-200, 200, "minimum", "maximum").map(lambda each: {"type": "integer", **each}),
    bounds(-5, 5, "minimum", "maximum").map(lambda each: {"type": "number", **each}),
    bounds(0, 6, "minLength", "maxLength").map(lambda each: {"type": "string", **each}),
    st.sampled_from(["^[a-c]{2,4}$", "^[0-9]{1,9}-x$", "^(ab|c)d?$"]).map(
        lambda each: {"type": "string", "pattern": each}
    ),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda each: {"type": "string", "format": each}),
    st.lists(st.one_of(WORDS, st.integers(-9, 9), st.none(), st.booleans()), min_size=1, max_size=4).map(
        lambda each: {"enum": each}
    ),
    WORDS.map(lambda each: {"const": each}),
)


def nested(inner):
    properties = st.dictionaries(WORDS, inner, min_size=1, max_size=3)
    objects = st.tuples(properties, st.randoms(use_true_random=False)).map(
        lambda made: {
            "type": "object",
            "properties": made[0],
            "required": [name for name in made[0] if made[1].random() < 0.7],
            "additionalProperties": False,
        }
    )
    arrays = st.tuples(inner, bounds(0, 3, "minItems", "maxItems")).map(
        lambda made: {"type": "array", "items": made[0], **made[1]}
    )
    either = st.lists(inner, min_size=2, max_size=3).map(lambda each: {"anyOf": each})
    return st.one_of(objects, arrays, either)


SCHEMAS = st.recursive(LEAVES, nested, max_leaves=6)
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 3},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SAID = {at: json.dumps({"children": [], "name": "a", "value": at, "done": True}) for at in range(50)}


CASES = (SCHEMAS, st.integers(0, 999), st.sampled_from([0.0, 1.0, 2.0]))


def check(schema: dict, seed: int, temperature: float, **model) -> int:
    """The answer follows the schema; returns the number of its tokens."""
    import jsonschema

    text, size, ended = answer(schema, seed, temperature, **model)
    assert ended, text
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    return size


@pytest.mark.needs("cpu")
@settings(max_examples=60, deadline=None)
@given(*CASES)
def test_whatever_the_model_likes_its_answer_follows_the_schema(schema, seed, temperature):
    check(schema, seed, temperature)


@pytest.fixture(scope="module")
def merged() -> dict:
    """Tokens of a byte-level BPE as Transformers has them; their bytes as the docs say it."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [f"<{at}>" for at in range(END + 1)]  # as many as bring the end to its number
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=sorted(letters), show_progress=False
    )
    trained.train_from_iterator([json.dumps(TREE, indent=2), __doc__, *SAID.values()], trainer)
    named = [trained.id_to_token(each) for each in range(trained.get_vocab_size())]
    texts = [b"" if at <= END else bytes(letters[each] for each in name) for at, name in enumerate(named)]
    assert sum(len(each) > 1 for each in texts) > 50
    return {"texts": texts, "constraints": TokenConstraints(texts, {END})}


@pytest.mark.needs("cpu")
@settings(max_examples=20, deadline=None)
@given(*CASES)
def test_so_it_is_with_tokens_of_a_bpe(merged, schema, seed, temperature):
    check(schema, seed, temperature, **merged)


@pytest.mark.needs("cpu")
def test_schemas_that_refer_to_themselves_are_followed():
    import jsonschema

    ends = 0
    for seed in range(12):
        text, _, ended = answer(TREE, seed, 1.0, most=400)
        ends += ended
        if ended:
            jsonschema.validate(json.loads(text), TREE)
    assert ends >= 3


def test_any_object_is_json():
    for seed in range(5):
        text, _, ended = answer({"type": "object"}, seed, 1.0, most=200)
        assert text.startswith(b"{")
        assert not ended or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        ({"$ref": "http://127.0.0.1:9/x"}, "retrieving it failed"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
        ({"properties": 3}, "properties must be an object"),
    ],
)
def test_faults_of_a_schema_are_named(schema, said):
    with pytest.raises(WrongField, match=said) as caught:
        CONSTRAINTS.constraint(constraining_grammar(schema, None, None), "format.schema")
    assert caught.value.field == "format.schema"
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("json", "f.type"),
        ({"type": "xml"}, "f.type"),
        ({"type": "json_schema"}, "f.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": [1]}}, "f.json_schema.schema"),
    ],
)
def test_formats_that_are_not_valid_are_named(given, field):
    with pytest.raises(WrongField) as caught:
        read_format(given, "f")
    assert caught.value.field == field


def test_what_a_client_sends_is_not_kept_whole():
    constraints = TokenConstraints(TOKEN_BYTES, {END})
    for schema, said in (
        ({"properties": 3}, "must be an object"),
        ({"enum": ["x" * (256 << 10)]}, "at most"),
    ):
        with pytest.raises(WrongField, match=said):
            constraints.constraint(constraining_grammar(schema, None, None), "schema")
    assert not constraints._made
    large = constraining_grammar({"enum": ["x" * 10_000, "y"]}, None, None)
    for _ in range(2):
        constraints.constraint(large, "schema")
    assert [len(name) for name in constraints._made] == [16]


def test_tokens_that_the_bytes_do_not_cover_never_come():
    constraint = CONSTRAINTS.constraint(constraining_grammar({"type": "boolean"}, None, None), "schema")
    assert constraint.allowed(len(TOKEN_BYTES) + 100).max() < len(TOKEN_BYTES)
    with pytest.raises(UsageError, match="token_bytes has 2 tokens"):
        TokenConstraints([b"a", b"b"], {5})
