"""A program at a terminal of its own, where keys are typed and what it draws is read."""

import os
import pty
import re
import select
import time

# Only a broken program needs as long.
PATIENCE = 60


class Terminal:
    def __init__(self, *words, **environment):
        # The child leads a session whose terminal this is: Ctrl-C is a signal to it.
        self.child, self.keys = pty.fork()
        if self.child == 0:
            try:
                os.execvpe(words[0], words, os.environ | {"TERM": "xterm"} | environment)
            finally:
                os._exit(127)
        os.set_blocking(self.keys, False)
        self.unread = ""

    def type(self, keys):
        os.write(self.keys, keys.encode())

    def see(self, pattern):
        """Waits until it is on the screen, behind what was seen before."""
        end = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.unread)):
            ready, _, _ = select.select([self.keys], [], [], max(0, end - time.monotonic()))
            more = self.read() if ready else ""
            assert more, f"{pattern!r} never came; there was {self.unread[-1000:]!r}"
            self.unread += more
        self.unread = self.unread[found.end() :]
        return found

    def read(self):
        try:
            return os.read(self.keys, 1 << 16).decode(errors="replace")
        except OSError:
            # The program has ended.
            return ""

    def ended(self):
        """Its exit code."""
        while self.read():
            pass
        _, status = os.waitpid(self.child, 0)
        return os.waitstatus_to_exitcode(status)
