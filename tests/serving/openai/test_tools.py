"""Tools and answers by a schema, with OpenAI's client: offered to the model, said by it, forced, streamed, and told back."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.serving.openai.conftest import served
from tests.serving.openai.scripted_model import Plain, Scripted, said_call

from hooke import service
from hooke.serving.openai.tools import ToolCallReader, takes_tools

SERVED = "scripted"
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
FORM = takes_tools(Scripted)
BERLIN = said_call("weather", city="Berlin", days=2)


def ask(client, say: str, **more):
    messages = [*more.pop("messages", []), {"role": "user", "content": f"say:{say}" if say else "anything"}]
    return client.chat.completions.create(
        model="Scripted", messages=messages, **({"temperature": 0, "max_tokens": 300} | more)
    )


def calls_of(message) -> list[tuple[str, dict]]:
    return [(each.function.name, json.loads(each.function.arguments)) for each in message.tool_calls or ()]


@pytest.mark.needs("cpu")
def test_a_call_is_said_and_its_result_told_back(scripted, client):
    first = ask(client, f"I look.\n{BERLIN}", tools=TOOLS).choices[0]
    assert (first.message.content, first.finish_reason) == ("I look.", "tool_calls")
    assert calls_of(first.message) == [("weather", {"city": "Berlin", "days": 2})]
    prompt, tools = scripted.model.seen
    assert tools[0] == TOOLS[0]
    assert tools[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    said = first.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "sunny"}
    last = ask(client, "It is sunny.", tools=TOOLS, messages=[said, result]).choices[0]
    assert (last.message.content, last.message.tool_calls, last.finish_reason) == (
        "It is sunny.",
        None,
        "stop",
    )
    told = scripted.model.seen[0]
    assert told[0]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": {"city": "Berlin", "days": 2},
    }
    assert told[0]["tool_calls"][0]["id"] == told[1]["tool_call_id"]
    assert told[0]["content"] == "I look."


@pytest.mark.needs("cpu")
def test_several_calls_and_one(client):
    say = f"{BERLIN}\n{said_call('now')}"
    both = ask(client, say, tools=TOOLS).choices[0]
    assert [name for name, _ in calls_of(both.message)] == ["weather", "now"]
    assert both.message.content is None
    assert len({each.id for each in both.message.tool_calls}) == 2
    one = ask(client, say, tools=TOOLS, parallel_tool_calls=False).choices[0]
    assert [name for name, _ in calls_of(one.message)] == ["weather"]
    assert one.finish_reason == "tool_calls"
    none = ask(client, say, tools=TOOLS, tool_choice="none").choices[0]
    assert (none.message.content, none.message.tool_calls) == (say, None)


@pytest.mark.needs("cpu")
def test_a_stream_of_text_and_calls(client):
    events = ask(client, f"I look.\n{BERLIN}\n{said_call('now')}", tools=TOOLS, stream=True)
    text, calls, reasons = "", [], []
    for event in events:
        delta = event.choices[0].delta
        text += delta.content or ""
        calls += delta.tool_calls or []
        reasons.append(event.choices[0].finish_reason)
    assert text == "I look."
    assert [(each.index, each.function.name) for each in calls] == [(0, "weather"), (1, "now")]
    assert all(each.id and each.type == "function" for each in calls)
    assert [each for each in reasons if each] == ["tool_calls"]
    with client.chat.completions.stream(
        model="Scripted", messages=[{"role": "user", "content": f"say:{BERLIN}"}], tools=TOOLS, temperature=0
    ) as stream:
        final = stream.get_final_completion().choices[0]
    assert calls_of(final.message) == [("weather", {"city": "Berlin", "days": 2})]


def test_what_is_not_a_call_is_text(client):
    for say in (
        "<tool_call>nothing</tool_call> more",
        "<tool_call>\n{",
        "a <tool_call>",
        "a <tool",
        '<tool_call>{"name": 3}</tool_call>',
    ):
        choice = ask(client, say, tools=TOOLS).choices[0]
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (
            say,
            None,
            "stop",
        )
    cut = ask(client, BERLIN, tools=TOOLS, max_tokens=8).choices[0]
    assert (cut.message.tool_calls, cut.finish_reason) == (None, "length")


@pytest.mark.needs("cpu")
@given(
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "f"}', "<tool", "\n", " ", "x", "_call>"]),
        max_size=12,
    ),
    st.randoms(),
)
def test_in_whatever_parts_an_answer_comes_its_calls_are_the_same(parts, draw):
    text = "".join(parts)
    whole = ToolCallReader(FORM, "id")
    expected_text, expected = whole.read(text, last=True)
    reader, said, calls, at = ToolCallReader(FORM, "id"), "", [], 0
    while at < len(text):
        size = draw.randint(1, 4)
        more, found = reader.read(text[at : at + size], last=False)
        said, calls, at = said + more, calls + found, at + size
    more, found = reader.read("", last=True)
    assert [each[1:] for each in calls + found] == [each[1:] for each in expected]
    assert (said + more).split() == expected_text.split()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("choice", "names"), [("required", {"weather", "now"}), ("now", {"now"}), ("weather", {"weather"})]
)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_call_can_be_forced_on_a_model_that_would_say_something_else(client, choice, names, temperature):
    import jsonschema

    chosen = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    answer = ask(
        client,
        "",
        tools=TOOLS,
        tool_choice=chosen,
        temperature=temperature,
        seed=4,
        n=2,
        parallel_tool_calls=False,
    )
    for each in answer.choices:
        assert each.finish_reason in ("tool_calls", "length")
        if each.finish_reason == "tool_calls":
            ((name, arguments),) = calls_of(each.message)
            assert name in names
            jsonschema.validate(arguments, WEATHER if name == "weather" else {"type": "object"})
    if choice == "weather":
        assert {each.finish_reason for each in answer.choices} == {"tool_calls"}


@pytest.mark.needs("cpu")
def test_arguments_of_strict_tools_follow_their_schema(client):
    import jsonschema

    strict = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}]
    wrong = said_call("weather", city="A city with a long name", days=200)
    loose = ask(client, f"Well. {wrong}", tools=TOOLS).choices[0]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(calls_of(loose.message)[0][1], WEATHER)
    kept = ask(client, f"Well. {wrong}", tools=strict).choices[0]
    assert kept.message.content.startswith("Well.")
    jsonschema.validate(calls_of(kept.message)[0][1], WEATHER)


class Flight(BaseModel):
    number: int
    places: list[str]


@pytest.mark.needs("cpu")
def test_an_answer_by_a_schema(client):
    import jsonschema

    def asked(say, schema, **more):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
        return ask(client, say, response_format=form, **more).choices[0]

    say = '{"city": "Rome", "days": 3}'
    choice = asked(say, WEATHER)
    assert (choice.message.content, choice.finish_reason) == (say, "stop")
    for seed in range(3):
        choice = asked("", WEATHER, temperature=1, seed=seed)
        jsonschema.validate(json.loads(choice.message.content), WEATHER)
    cut = asked(say, WEATHER, max_tokens=4)
    assert cut.finish_reason == "length"
    assert say.startswith(cut.message.content)
    assert (
        ask(client, '[1]{"a": 1} and more', response_format={"type": "json_object"})
        .choices[0]
        .message.content.startswith("{")
    )
    streamed = ask(client, say, response_format={"type": "json_object"}, stream=True)
    assert "".join(each.choices[0].delta.content or "" for each in streamed) == say
    parsed = client.chat.completions.parse(
        model="Scripted",
        messages=[{"role": "user", "content": 'say:{"number": 7, "places": ["JFK", "SFO"]}'}],
        response_format=Flight,
        temperature=0,
    )
    assert parsed.choices[0].message.parsed == Flight(number=7, places=["JFK", "SFO"])


def test_with_a_schema_and_tools_the_answer_is_either(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}}
    said = ask(client, '{"city": "Rome", "days": 3}', response_format=form, tools=TOOLS).choices[0]
    assert (json.loads(said.message.content)["city"], said.finish_reason) == ("Rome", "stop")
    called = ask(client, BERLIN, response_format=form, tools=TOOLS).choices[0]
    assert (calls_of(called.message)[0][0], called.finish_reason) == ("weather", "tool_calls")


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", '"web_search" is not supported'),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools", "same name"),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice", "not one of auto"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice",
            "not among the tools",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
            "JSON Schema of an object",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "strin"}},
                }
            },
            "response_format",
            "Invalid type: strin",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "strict": True, "parameters": {"properties": 1}},
                    }
                ],
            },
            "tools",
            "properties must be an object",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            "JSON object",
        ),
        (
            {"messages": [{"role": "tool", "tool_call_id": "x", "content": None}]},
            "messages[0].content",
            "missing",
        ),
    ],
)
def test_what_is_wrong_is_named(client, asked, field, said):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "x", **asked)
    assert caught.value.param == field
    assert said in caught.value.message


def test_a_class_without_tools_and_bytes_refuses_them_by_name():
    messages = [{"role": "user", "content": "x"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with served(Plain) as it, it.client() as client:
        for asked, field in (
            ({"tools": TOOLS}, "tools"),
            ({"messages": [*messages, {"role": "assistant", "tool_calls": [call]}]}, "messages"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(**{"model": "Plain", "messages": messages, **asked})
            assert caught.value.param == field
        said = {"role": "assistant", "content": "x", "tool_calls": None}  # as clients write messages back
        client.chat.completions.create(model="Plain", messages=[*messages, said], max_tokens=1)


@service(protocol="openai", timeout="20s")
class Pythonic(Scripted):
    """Says calls in a form of its own."""

    tool_marks = ("[[", "]]")

    def read_tool_calls(self, text):
        name, _, city = text.partition(":")
        if not city:
            raise ValueError("this is not a call")
        return [(name, {"city": city})]


def test_a_class_reads_its_own_form_of_calls():
    def asked(say, **more):
        messages = [{"role": "user", "content": f"say:{say}"}]
        given = {"model": "Pythonic", "messages": messages, "temperature": 0, "tools": TOOLS, **more}
        return client.chat.completions.create(**given).choices[0]

    with served(Pythonic) as it, it.client() as client:
        assert calls_of(asked("[[weather:Rome]]").message) == [("weather", {"city": "Rome"})]
        assert asked("[[weather]]").message.content == "[[weather]]"
        with pytest.raises(openai.BadRequestError, match="form of its own"):
            asked("x", tool_choice="required")
