"""DeepSpeed's way over pdsh and ssh: arguments arrive as they are, requests to leave reach the ranks, no rank outlives
the connection, and nothing is killed by name on the nodes."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
from pathlib import Path

from deepspeed.launcher.multinode_runner import PDSHRunner

sys.path.insert(0, str(Path(__file__).resolve().parent))
import leash  # noqa: E402  (beside this file)


class OverSsh(PDSHRunner):
    """What deepspeed's launcher calls for `--launcher pdsh`; one a process."""

    nodes: list[str] = []
    pids = f"/tmp/dstrain-{secrets.token_hex(8)}"
    """on each node: its ranks write their process ids to files whose names begin like this"""

    def parse_user_args(self) -> list[str]:
        """For the shell of the node; pdsh puts %h, %n and %u in."""
        return [shlex.quote(argument).replace("%", "%%") for argument in self.args.user_args]

    def get_cmd(self, environment: dict[str, str], active_resources: dict) -> tuple[list[str], list[str], dict]:
        OverSsh.nodes = list(active_resources)
        self.add_export(leash.OVER_SSH, self.pids)
        command, _, environment = super().get_cmd(environment, active_resources)
        if self.args.quiet:
            command.insert(command.index("deepspeed.launcher.launch") + 1, "--quiet")
        # Ended with this process; its connections are, too, and so the ranks know. DeepSpeed's own clean-up would be
        # `pkill -f` on each node, which ends other runs as well.
        return [sys.executable, leash.__file__, *command], ["true"], environment

    @classmethod
    def ask_ranks(cls, number: int) -> bool:
        """The signal to all ranks; whether any was there."""
        if not cls.nodes:
            return False
        asked = f"kill -{int(number)} $(cat {cls.pids}.*)"
        done = subprocess.run(["pdsh", "-R", "ssh", "-S", "-w", ",".join(cls.nodes), asked], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done.returncode == 0


def remove_environment_file() -> None:
    """What launch/multinode.sh has written for this launch alone."""
    if "--force_multi" in sys.argv and "DS_ENV_FILE" in os.environ:
        Path(os.environ["DS_ENV_FILE"]).unlink(missing_ok=True)
