"""A collector of spans: an HTTP server that reads OTLP's protobuf messages, as a real one does."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Keeps the spans that it gets, each as a dict with the attributes of its resource. A context manager."""

    def __init__(self):
        self.spans, self.headers = [], []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                collector.headers.append(dict(self.headers))
                collector.spans += read(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def trace(self, trace_id, count):
        """The spans of a trace by name, once there are so many."""
        ends = time.monotonic() + 60
        while len(found := [span for span in self.spans if span["trace"] == trace_id]) < count:
            assert time.monotonic() < ends, [span["name"] for span in found]
            time.sleep(0.01)
        return {span["name"]: span for span in found}


def read(body):
    message = ExportTraceServiceRequest.FromString(body)
    return [
        {
            "name": span.name,
            "trace": span.trace_id.hex(),
            "id": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "kind": span.kind,
            "began": span.start_time_unix_nano,
            "ended": span.end_time_unix_nano,
            "attributes": values(span.attributes),
            "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            "status": span.status.code,
            "resource": values(of_one.resource.attributes),
            "scope": scope.scope.name,
        }
        for of_one in message.resource_spans
        for scope in of_one.scope_spans
        for span in scope.spans
    ]


def values(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
