"""The ASGI server that a replica runs on: uvicorn, with limits on connections and heads.

It knows nothing of models. Imports `serving` and `base`; uvicorn is imported here and nowhere else.
"""
