"""The same in FastAPI on uvicorn; no batches, for it has none.

python fastapi_app.py PORT
"""

from __future__ import annotations

import sys

import numpy as np
import uvicorn
from counting import count, model
from fastapi import FastAPI
from pydantic import BaseModel


class Body(BaseModel):
    x: list[float]


class Rows(BaseModel):
    rows: list[list[float]]


app = FastAPI()
regressor = model()


@app.post("/echo")
async def echo(body: Body) -> list[float]:
    count(1)
    return body.x


@app.post("/predict")
def predict(body: Rows) -> list[float]:
    count(len(body.rows))
    return regressor.predict(np.array(body.rows)).tolist()


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
