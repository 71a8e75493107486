"""`python -m tests.support.echo_process FD`: answers one message with its pid."""

import os
import socket
import sys

with socket.socket(fileno=int(sys.argv[1])) as mine:
    if mine.recv(100):
        mine.sendall(b"%d" % os.getpid())
