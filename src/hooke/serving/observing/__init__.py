"""What a service tells of each request: the request log and the spans of OpenTelemetry.

It knows requests and batches by their exchanges, and nothing of models. Imports `serving` and `base`; OpenTelemetry is imported here and nowhere else.
"""
