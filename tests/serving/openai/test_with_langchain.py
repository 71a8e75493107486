"""LangChain's client: chats, streams, tools, structured output, responses, and errors."""

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from tests.serving.openai.conftest import TOKEN, served
from tests.serving.openai.scripted_model import Scripted, said_call


@pytest.fixture(scope="module")
def scripted():
    with served(Scripted) as made:
        yield made


def chat(scripted, **more) -> ChatOpenAI:
    given = {"model": "Scripted", "temperature": 0, "max_retries": 0, "timeout": 60, "api_key": TOKEN}
    return ChatOpenAI(base_url=f"{scripted.address}/v1", stream_usage=True, **(given | more))


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request, scripted):
    return chat(scripted, use_responses_api=request.param)


@tool
def weather(city: str, days: int = 1) -> str:
    """Tells the weather."""
    return f"sunny in {city} for {days} days"


class City(BaseModel):
    """A city."""

    name: str
    people: int


@pytest.mark.needs("cpu")
def test_a_chat_and_its_stream(scripted, model):
    asked = [SystemMessage("Be short."), HumanMessage("say:Hello, ä.")]
    answer = model.invoke(asked)
    assert answer.text == "Hello, ä."
    assert answer.usage_metadata["output_tokens"] == len("Hello, ä.".encode()) - 1
    assert [each["role"] for each in scripted.model.seen[0]] == ["system", "user"]
    parts = list(model.stream(asked))
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    assert whole.text == "Hello, ä."
    assert sum(bool(part.text) for part in parts) > 3
    assert whole.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"]


@pytest.mark.needs("cpu")
def test_tools_are_called_and_their_results_told(scripted, model):
    bound = model.bind_tools([weather])
    answer = bound.invoke(f"say:I look. {said_call('weather', city='Rome', days=2)}")
    ((name, arguments, identity),) = [(each["name"], each["args"], each["id"]) for each in answer.tool_calls]
    assert (name, arguments) == ("weather", {"city": "Rome", "days": 2})
    result = weather.invoke(arguments)
    last = bound.invoke(
        [HumanMessage("x"), answer, ToolMessage(result, tool_call_id=identity), HumanMessage("say:Sun.")]
    )
    assert last.text == "Sun."
    told = scripted.model.seen[0]
    assert [each["role"] for each in told] == ["user", "assistant", "tool", "user"]
    assert told[1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert told[2]["content"] == result
    streamed = None
    for part in bound.stream(f"say:{said_call('weather', city='Rome')}"):
        streamed = part if streamed is None else streamed + part
    assert isinstance(streamed, AIMessage)
    assert streamed.tool_calls[0]["args"] == {"city": "Rome"}
    forced = model.bind_tools([weather], tool_choice="weather", parallel_tool_calls=False, strict=True)
    said = said_call("weather", city="Ulm", days=3)
    assert forced.invoke(f"say:{said}").tool_calls[0]["args"] == {"city": "Ulm", "days": 3}


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model, method):
    said = '{"name": "Rome", "people": 3}'
    say = said if method == "json_schema" else said_call("City", name="Rome", people=3)
    made = model.with_structured_output(City, method=method).invoke(f"say:{say}")
    assert made == City(name="Rome", people=3)


def test_errors_are_those_of_openais_client(scripted):
    for given, kind in (
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"api_key": "wrong" * 8}, openai.AuthenticationError),
        ({"temperature": 3}, openai.BadRequestError),
    ):
        with pytest.raises(kind):
            chat(scripted, **given).invoke("say:x")
    with pytest.raises(openai.BadRequestError, match="context"):
        chat(scripted).invoke("x" * 5000)
