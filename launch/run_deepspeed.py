"""The deepspeed launcher, as its own command starts it, but quiet about Ctrl-C: its ranks end, then so does it.

The command of the same name dies of the Ctrl-C at once, with a traceback, while its ranks still say what happened.
"""

import signal
import sys

from deepspeed.launcher.runner import main

if __name__ == "__main__":
    # A handler that does nothing, not SIG_IGN: programs that are started from here get Ctrl-C as usual.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(main())
