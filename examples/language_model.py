"""A language model behind OpenAI's protocol: a small transformer in plain PyTorch, with its keys and values in pages.

    hooke serve examples/language_model.py:Zen

With `@service(protocol="openai", gpus=1)` it computes on the GPU that its replica is given, with `gpus=0.5` two replicas share one.

It learns the Zen of Python when it starts, which takes some seconds, and completes its sentences. `step` is all that Hooke asks of a model: it
computes tokens of several requests together, of prompts or of answers, and returns what comes next for those that have all theirs.
"""

import codecs
import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from hooke import TokenLimits, TokenPiece, service

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
WIDTH, HEADS, LAYERS, CONTEXT = 64, 4, 2, 256
END = 10
"""A line's end is an answer's."""

with contextlib.redirect_stdout(io.StringIO()):
    import this
ZEN = codecs.decode(this.s, "rot13")


class Layer(nn.Module):
    """Attention, then a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(WIDTH)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.think = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """`attend(queries, keys, values)` of shape (..., tokens, heads, width of a head)."""
        parts = self.queries_keys_values(self.before(x)).chunk(3, dim=-1)
        seen = attend(*(part.unflatten(-1, (HEADS, WIDTH // HEADS)) for part in parts))
        x = x + self.mixed(seen.flatten(-2))
        return x + self.think(x)


class Transformer(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256))

    def forward(self, tokens: Tensor, places: Tensor, attends: list[Attend]) -> Tensor:
        """`attends` has the attention of each layer."""
        x = self.letters(tokens) + self.places(places)
        for layer, attend in zip(self.layers, attends, strict=True):
            x = layer(x, attend)
        return x

    def whole(self, tokens: Tensor) -> Tensor:
        """Logits after each of `tokens` (..., n), computed at once."""
        x = self(tokens, torch.arange(tokens.shape[-1], device=tokens.device), [causal] * LAYERS)
        return self.head(x)


def causal(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each token sees those before it."""
    queries, keys, values = (each.transpose(-2, -3) for each in (queries, keys, values))
    return scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(-2, -3)


def trained(steps: int = 300) -> Transformer:
    """A transformer that knows the Zen of Python by heart: sentences of it, at any place of the context."""
    torch.manual_seed(0)
    model = Transformer()
    text = torch.tensor(list(ZEN.encode()))
    learner = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - 97, (16, 1))
        rows = text[starts + torch.arange(97)]
        loss = cross_entropy(model.whole(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        learner.zero_grad()
        loss.backward()
        learner.step()
    return model.double().eval()


@service(protocol="openai")
class Zen:
    """Completes sentences of the Zen of Python."""

    end = frozenset({END})

    def setup(self, slots: int = 8) -> None:
        """Learn, and make room for the keys and values of `slots` requests."""
        self.limits = TokenLimits(slots=slots, step_tokens=256, context=CONTEXT)
        # A replica sees the GPUs that it was given and no others.
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = trained().to(self.device)
        shape = 2, slots * CONTEXT, HEADS, WIDTH // HEADS
        self.memory = [torch.zeros(shape, dtype=torch.float64, device=self.device) for _ in range(LAYERS)]

    def encode(self, prompt: str | list[dict[str, Any]]) -> list[int]:
        """The bytes of a text, or of a chat's last message."""
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """Their text."""
        return bytes(tokens).decode(errors="replace")

    @torch.inference_mode()
    def step(self, pieces: list[TokenPiece]) -> np.ndarray:
        """The tokens of all pieces in one row; each sees its own request's, which are in memory."""
        size = self.limits.page_tokens
        tokens = torch.tensor([token for piece in pieces for token in piece.tokens])
        wholes = [torch.arange(piece.start + len(piece.tokens)) for piece in pieces]
        rooms = [
            torch.tensor(list(piece.pages))[whole // size] * size + whole % size
            for piece, whole in zip(pieces, wholes, strict=True)
        ]
        places = torch.cat([whole[piece.start :] for piece, whole in zip(pieces, wholes, strict=True)])
        new = torch.cat([room[piece.start :] for piece, room in zip(pieces, rooms, strict=True)])

        def attention(memory: Tensor) -> Attend:
            def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
                memory[0, new], memory[1, new] = keys, values
                parts = queries.split([len(piece.tokens) for piece in pieces])
                each = zip(parts, rooms, pieces, strict=True)
                return torch.cat(
                    [seen(part, memory[0, room], memory[1, room], piece.start) for part, room, piece in each]
                )

            return attend

        tokens, places, new = (each.to(self.device) for each in (tokens, places, new))
        x = self.model(tokens, places, [attention(memory) for memory in self.memory])
        ends = torch.tensor([len(piece.tokens) for piece in pieces]).cumsum(0) - 1
        gives = [end for end, piece in zip(ends.tolist(), pieces, strict=True) if piece.gives_token]
        return self.model.head(x[gives]).cpu().numpy()


def seen(queries: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    """Attention of a request's tokens from number `start` on, over all before them."""
    mask = torch.arange(len(keys)) <= start + torch.arange(len(queries))[:, None]
    mask = mask.to(keys.device)
    queries, keys, values = (each.transpose(0, 1) for each in (queries, keys, values))
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(0, 1)
