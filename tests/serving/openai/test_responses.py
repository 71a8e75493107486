"""`/v1/responses` with OpenAI's client: whole, as typed events in order, with tools and schemas; what needs a state is refused by name."""

import json

import openai
import pytest
from pydantic import BaseModel
from tests.serving.openai.conftest import served
from tests.serving.openai.scripted_model import Scripted, said_call

SERVED = "scripted"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "name": "weather", "description": "Tells it.", "parameters": WEATHER, "strict": True}
]
BERLIN = said_call("weather", city="Berlin")


def ask(client, said, **more):
    return client.responses.create(model="Scripted", input=said, **({"temperature": 0} | more))


@pytest.mark.needs("cpu")
def test_text(scripted, client):
    answer = ask(client, "say:Hello, ä.", instructions="Be short.", metadata={"a": "b"}, max_output_tokens=99)
    assert (answer.output_text, answer.status, answer.error) == ("Hello, ä.", "completed", None)
    assert scripted.model.seen[0] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "say:Hello, ä."},
    ]
    assert (answer.store, answer.instructions, answer.metadata) == (False, "Be short.", {"a": "b"})
    assert (answer.max_output_tokens, answer.temperature, answer.tool_choice) == (99, 0, "auto")
    assert answer.usage.output_tokens == len("Hello, ä.".encode()) - 1, "`, ` is one token"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.id == f"resp_{answer._request_id}"
    cut = ask(client, "say:Hello", max_output_tokens=2)
    assert (cut.output_text, cut.status, cut.incomplete_details.reason) == (
        "He",
        "incomplete",
        "max_output_tokens",
    )
    assert ask(client, "say:").output_text == ""


@pytest.mark.needs("cpu")
def test_a_conversation(scripted, client):
    first = ask(client, f"say:I look. {BERLIN}", tools=TOOLS)
    message, call = first.output
    assert message.content[0].text == "I look."
    assert (call.name, json.loads(call.arguments), call.status) == (
        "weather",
        {"city": "Berlin"},
        "completed",
    )
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    last = {"role": "user", "content": [{"type": "input_text", "text": "say:Sunny."}]}
    answer = ask(client, [{"role": "developer", "content": "x"}, *first.output, output, last], tools=TOOLS)
    assert answer.output_text == "Sunny."
    told, tools = scripted.model.seen
    assert [each["role"] for each in told] == ["developer", "assistant", "tool", "user"]
    assert told[1]["content"] == "I look."
    assert told[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Berlin"}}
    assert told[2] == {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"}
    assert tools[0]["function"]["parameters"] == WEATHER


@pytest.mark.needs("cpu")
def test_a_stream_has_typed_events_in_order(client):
    events = list(ask(client, f"say:Hi! {BERLIN}", tools=TOOLS, stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    kinds = [each.type.removeprefix("response.") for each in events]
    text = [at for at, kind in enumerate(kinds) if kind == "output_text.delta"]
    assert kinds[: text[0]] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert "".join(events[at].delta for at in text) == "Hi!"
    assert kinds[text[-1] + 1 :] == [
        *("output_text.done", "content_part.done", "output_item.done"),
        *(
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ),
        "completed",
    ]
    whole = ask(client, f"say:Hi! {BERLIN}", tools=TOOLS)
    final = events[-1].response
    assert [each.type for each in final.output] == ["message", "function_call"]
    assert final.output_text == whole.output_text == "Hi!"
    assert final.output[1].arguments == whole.output[1].arguments
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert all(type(each).__name__ != "BaseModel" for each in events), "each has its type"
    cut = list(ask(client, "say:Hello", max_output_tokens=2, stream=True))
    assert (cut[-1].type, cut[-1].response.output[0].status) == ("response.incomplete", "incomplete")


class City(BaseModel):
    name: str
    people: int


@pytest.mark.needs("cpu")
def test_the_helpers_of_the_client(client):
    asked = {"model": "Scripted", "input": 'say:{"name": "Rome", "people": 3}', "temperature": 0}
    parsed = client.responses.parse(text_format=City, **asked)
    assert parsed.output_parsed == City(name="Rome", people=3)
    with client.responses.stream(text_format=City, **asked) as stream:
        deltas = [each for each in stream if each.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas[-1].snapshot == asked["input"][4:]
    assert final.output_parsed == City(name="Rome", people=3)
    tool = openai.pydantic_function_tool(City)
    flat = {"type": "function", **tool["function"]}
    called = client.responses.parse(
        model="Scripted", input=f"say:{said_call('City', name='x', people=1)}", tools=[flat], temperature=0
    )
    assert json.loads(called.output[0].arguments) == {"name": "x", "people": 1}


@pytest.mark.needs("cpu")
def test_schemas_and_forced_calls(client):
    import jsonschema

    form = {"format": {"type": "json_schema", "name": "w", "schema": WEATHER, "strict": True}}
    answer = ask(client, 'say:{"city": "Rome"} and more', text=form)
    assert (answer.output_text, answer.text.format.type) == ('{"city": "Rome"}', "json_schema")
    for choice in ("required", {"type": "function", "name": "weather"}):
        said = said_call("weather", city="Ulm").removesuffix("\n</tool_call>")
        forced = ask(client, f"say:{said}", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
        jsonschema.validate(json.loads(forced.output[0].arguments), WEATHER)


@pytest.mark.needs("cpu")
def test_log_probabilities(client):
    events = list(
        ask(client, "say:abc", include=["message.output_text.logprobs"], top_logprobs=2, stream=True)
    )
    told = [each.logprobs[0] for each in events if each.type == "response.output_text.delta"]
    assert [each.token for each in told] == ["a", "b", "c"]
    assert all(len(each.top_logprobs) == 2 for each in told)
    assert [each.token for each in events[-1].response.output[0].content[0].logprobs] == ["a", "b", "c"]


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("most", [None, 2])
def test_log_probabilities_of_parts_of_a_letter_come_with_it(client, most):
    asked = {"include": ["message.output_text.logprobs"], "stream": True, "max_output_tokens": most}
    events = list(ask(client, "say:aäb", **asked))
    told = [each.logprobs for each in events if each.type == "response.output_text.delta"]
    assert [len(each) for each in told] == ([1, 2, 1] if most is None else [1, 1])
    part = events[-1].response.output[0].content[0]
    assert len(part.logprobs) == events[-1].response.usage.output_tokens
    assert part.text == ("aäb" if most is None else "a\ufffd")


@pytest.mark.needs("cpu")
def test_tokens_that_are_a_call_have_no_log_probabilities(client):
    asked = {"include": ["message.output_text.logprobs"], "stream": True, "tools": TOOLS}
    events = list(ask(client, f"say:so {said_call('weather', city='Ulm')}", **asked))
    message, call = events[-1].response.output
    assert call.type == "function_call"
    assert len(message.content[0].logprobs) <= len("so ")


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"temperature": 5}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}},
            "text.format.schema",
        ),
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "["}]}, "input[0].arguments"),
        ({"input": 3}, "input"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(client, asked, field):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "Scripted", "input": "say:x", **asked})
    assert caught.value.param == field
    assert caught.value.request_id


def test_a_prompt_that_is_too_long_and_an_unknown_model(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "x" * 5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-5", input="x")
    assert missing.value.code == "model_not_found"


def test_a_process_that_ends_fails_the_response():
    with served(Scripted) as it, it.client() as client:
        events = ask(client, f"say:{'x' * 3000}", stream=True)
        seen = [next(events) for _ in range(6)]
        it.replica._openai._engine.close()
        seen += list(events)
    assert seen[-1].type == "response.failed"
    assert "ended before the answer" in seen[-1].response.error.message
    assert [each.sequence_number for each in seen] == list(range(len(seen)))
