"""A real Slurm on this machine alone: munge, a controller, two nodes of one core, no accounting."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
ReturnToService=2
MailProg=/bin/true
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait=2
InactiveLimit=0
SchedulerParameters=sched_interval=2,batch_sched_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=01:00:00 State=UP
"""


def missing() -> str:
    """Why Slurm can't be started here; empty if it can."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    if absent:
        return f"there is no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """A Slurm cluster that keeps its files in a folder.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        for part in ("state", "spool.n1", "spool.n2", "log", "munge"):
            (folder / part).mkdir(parents=True)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        self.conf.write_text(
            CONF.format(host=host, folder=folder, ports=_free_ports(3)), encoding="utf-8"
        )

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        munge = self.folder / "munge"
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        words = [f"--{name}={munge / file}" for name, file in files.items()]
        self.run("munged", *words, f"--seed-file={munge / 'seed'}", "--force")
        self.start_controller()
        for node in ("n1", "n2"):
            self.run("slurmd", "-c", "-N", node, "-f", str(self.conf))
        self.until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2")

    def start_controller(self) -> None:
        self.run("slurmctld", "-f", str(self.conf))

    def stop_controller(self) -> None:
        pid = int((self.folder / "slurmctld.pid").read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGTERM)
        self.until(lambda: not Path(f"/proc/{pid}").exists())

    def stop(self) -> None:
        """End the jobs, then the daemons."""
        subprocess.run(["scancel", "--user=root"], env=self.environment, check=False)
        files = [self.folder / "slurmctld.pid", *self.folder.glob("slurmd.*.pid")]
        for file in [*files, self.folder / "munge" / "pid"]:
            try:
                os.kill(int(file.read_text(encoding="utf-8")), signal.SIGTERM)
            except (OSError, ValueError):
                continue

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": _path()}

    def run(self, *words: str) -> str:
        """Run a command, which must succeed, and return what it prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    @staticmethod
    def until(condition, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
