"""Trackers that what was logged is shipped to: one file a tracker, all alike; beside it what its format asks.

Each fulfils `hooke.journal.sink.Sink` and passes `hooke.testing.check_sink`. Knows a tracker's client library and limits;
knows nothing of journals, cursors and retries. Imports `journal` and `base`. Imported by the shipper's process alone:
training pays for none of this.
"""
