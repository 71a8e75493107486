import os

# A run that logs would start a process that ships it, and outlive its test; tests of that ask for it themselves.
os.environ["HOOKE_SINKS"] = "none"
