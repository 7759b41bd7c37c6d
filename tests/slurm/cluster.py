"""A whole SLURM on this machine, made for a test and gone after it.

No systemd, no cgroups, no root needed: munge, the controller and one node run as this user, on
ports and sockets of their own, so several clusters can live side by side. All their state is in one
folder. By hand:

    python -m tests.slurm.cluster up /tmp/lab [--accounting]
    export SLURM_CONF=/tmp/lab/slurm.conf
    python -m tests.slurm.cluster status /tmp/lab
    python -m tests.slurm.cluster down /tmp/lab
"""

import argparse
import atexit
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

PROGRAMS = (
    *(
        "munged",
        "slurmctld",
        "slurmd",
        "slurmdbd",
        "mariadbd",
        "mariadb-install-db",
        "my_print_defaults",
    ),
    *("sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol", "sacct", "sacctmgr"),
)
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmscriptd", "slurmd", "slurmstepd")
CPUS = 8

# A user's PATH need not lead to the daemons.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_OF_AN_OUTER_JOB = ("SLURM", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SINFO_", "SACCT_")


class Cluster:
    """One controller and one node that pretends to have 8 CPUs; optionally with accounting.

    Partition `urgent` preempts partition `main`, whose jobs are requeued after a grace of 30 s.

    Args:
        folder: where all state goes; must not exist yet. None: a new one among temporary files.
        accounting: with slurmdbd on a MariaDB of its own, so that sacct answers.
        settings: more lines of slurm.conf, or others in place of those set here.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        accounting: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"slurm-{secrets.token_hex(4)}"
        self.folder = folder.resolve()
        self.conf = self.folder / "slurm.conf"
        self.accounting = accounting
        self._settings = settings or {}
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        self._munge_socket = self.folder / "munge" / "socket"
        self._host = socket.gethostname().partition(".")[0]

    @staticmethod
    def missing() -> str | None:
        """Why no cluster can be made here, in one line, or None if it can."""
        absent = [program for program in PROGRAMS if not shutil.which(program, path=_PATH)]
        if not absent:
            return None
        return f"SLURM is not installed ({', '.join(absent)} not found): make slurm-packages"

    @property
    def env(self) -> dict[str, str]:
        """The environment in which SLURM's commands, and what calls them, meet this cluster."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(_OF_AN_OUTER_JOB)}
        return own | {"SLURM_CONF": str(self.conf), "PATH": _PATH}

    def __enter__(self) -> Self:
        self.up()
        atexit.register(self.down)  # for an end that passes by __exit__
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()
        atexit.unregister(self.down)

    def up(self) -> None:
        """Starts everything and returns once the node takes jobs.

        Raises:
            FileExistsError: the folder is there already.
            RuntimeError: something cannot be started; nothing of the cluster is left.
            TimeoutError: something did not come up; nothing of the cluster is left.
        """
        self.folder.mkdir(parents=True)
        try:
            self._up()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Kills daemons and jobs and removes the folder: nothing is left."""
        # A daemon may fork while it is being killed, hence again until none is found.
        self.wait_until(
            lambda: not self._signal(signal.SIGKILL, lambda name: True), "the end of all processes"
        )
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def run(self, *arguments: str | Path) -> str:
        """Runs one command on the cluster.

        Args:
            arguments: the command and its arguments.

        Returns:
            What it wrote to stdout, without space around it.

        Raises:
            RuntimeError: the command failed; the message holds what it wrote to stderr.
        """
        done = subprocess.run(arguments, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            command = " ".join(map(str, arguments))
            raise RuntimeError(f"`{command}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Waits until the condition holds.

        Args:
            condition: asked again and again.
            what: what is waited for, for the message.
            seconds: when to give up.

        Raises:
            TimeoutError: it still does not hold; the message ends with the last lines of all logs.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}\n{self._log_tails()}")
            time.sleep(0.05)

    def clear(self) -> None:
        """Ends all jobs and brings back what was stopped: the cluster is as after `up`."""
        self.start_controller()
        self.start_node()
        self.run("scancel", f"--user={self._user}")
        # SLURM itself would give them KillWait seconds to end.
        self._signal(signal.SIGKILL, lambda name: name not in DAEMONS)
        self.wait_until(lambda: not self.run("squeue", "--noheader"), "an empty queue")

    def stop_controller(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops slurmctld.

        Args:
            how: SIGTERM lets it save its state; with SIGKILL it may forget the last five seconds.
        """
        self._stop("slurmctld", how)

    def start_controller(self) -> None:
        """Starts slurmctld, if it does not run, and waits until it answers."""
        if not self._running("slurmctld"):
            self._start("slurmctld", "-f", self.conf)
        self.wait_until(lambda: self._succeeds("scontrol", "ping"), "slurmctld")

    def restart_controller(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops slurmctld and starts it again; see `stop_controller`."""
        self.stop_controller(how)
        self.start_controller()

    def stop_node(self) -> None:
        """Kills slurmd; its jobs go on."""
        self._stop("slurmd", signal.SIGKILL)

    def start_node(self) -> None:
        """Starts slurmd, if it does not run, and waits until the node takes jobs."""
        if not self._running("slurmd"):
            self._start("slurmd", "-f", self.conf)
        self.wait_until(self._node_is_up, "the node")

    def _up(self) -> None:
        self.folder.chmod(0o755)  # munge refuses a folder in which a group may write
        for name in ("log", "munge", "controller", "node"):
            (self.folder / name).mkdir(mode=0o711)
        self._write_conf()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        self.start_node()

    def _write_conf(self) -> None:
        memory_mb = psutil.virtual_memory().total // 2**20 - 512
        settings = {
            "ClusterName": "lab",
            "SlurmctldHost": f"{self._host}(127.0.0.1)",
            "SlurmctldPort": str(_free_port()),
            "SlurmdPort": str(_free_port()),
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "SlurmUser": self._user,
            "SlurmdUser": self._user,
            "AuthType": "auth/munge",
            # A requeued job starts only when its last credential has run out; 6 s is the least.
            "AuthInfo": f"socket={self._munge_socket},cred_expire=6",
            "StateSaveLocation": str(self.folder / "controller"),
            "SlurmdSpoolDir": str(self.folder / "node"),
            "SlurmctldPidFile": str(self.folder / "slurmctld.pid"),
            "SlurmdPidFile": str(self.folder / "slurmd.pid"),
            "SlurmctldLogFile": str(self.folder / "log" / "slurmctld"),
            "SlurmdLogFile": str(self.folder / "log" / "slurmd"),
            "SlurmdParameters": "config_overrides",  # as many CPUs as the node says it has
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": "256",
            "ReturnToService": "2",
            "KillWait": "5",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SlurmctldParameters": "preempt_send_user_signal",
            **(self._accounting_settings() if self.accounting else {}),
            **self._settings,
        }
        lines = [
            *(f"{key}={value}" for key, value in settings.items()),
            f"NodeName={self._host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={memory_mb}",
            f"PartitionName=main Nodes={self._host} Default=YES PriorityTier=1 GraceTime=30",
            f"PartitionName=urgent Nodes={self._host} PriorityTier=10 PreemptMode=OFF",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={self._cgroup_plugin()}\n")

    def _cgroup_plugin(self) -> str:
        """Nothing here uses control groups, but slurmd ends if it cannot load a plugin for them."""
        release = int(self.run("slurmd", "-V").split()[-1].partition(".")[0])
        return "disabled" if release >= 23 else "cgroup/v1"

    def _accounting_settings(self) -> dict[str, str]:
        port = str(_free_port())
        lines = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket}",
            "DbdHost": self._host,
            "DbdAddr": "127.0.0.1",
            "DbdPort": port,
            "SlurmUser": self._user,
            "PidFile": f"{self.folder}/slurmdbd.pid",
            "LogFile": f"{self.folder}/log/slurmdbd",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "root",
        }
        conf = self.folder / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": port,
            "AccountingStoragePass": str(self._munge_socket),
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "2",
        }

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._start(
            "munged",
            f"--key-file={key}",
            f"--socket={self._munge_socket}",
            f"--pid-file={munge / 'pid'}",
            f"--seed-file={munge / 'seed'}",
            f"--log-file={self.folder / 'log' / 'munged'}",
        )

    def _start_accounting(self) -> None:
        data = self.folder / "mariadb"
        door = data / "socket"
        common = ("--no-defaults", f"--user={self._user}", f"--datadir={data}")
        self._start(
            "mariadb-install-db",
            *common,
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        )
        self._start(
            "setsid", "--fork", "mariadbd", *common, f"--socket={door}", "--skip-networking"
        )
        self.wait_until(lambda: _listens(door), "MariaDB")
        self._start("slurmdbd", MYSQL_UNIX_PORT=str(door))
        self.wait_until(lambda: self._succeeds("sacctmgr", "list", "cluster"), "slurmdbd")
        self.run("sacctmgr", "--immediate", "add", "cluster", "lab")

    def _node_is_up(self) -> bool:
        # After a restart the controller shows the old state with a star until the node answered.
        return self.run("sinfo", "--noheader", "--format=%T") in {"idle", "mixed", "allocated"}

    def _succeeds(self, *arguments: str) -> bool:
        return (
            subprocess.run(arguments, env=self.env, capture_output=True, check=False).returncode
            == 0
        )

    def _start(self, *arguments: str | Path, **more_env: str) -> None:
        """Runs a program that ends, or goes on behind the scenes by itself."""
        with (self.folder / "log" / "output").open("a") as output:
            done = subprocess.run(
                arguments,
                env=self.env | more_env,
                stdin=subprocess.DEVNULL,
                stdout=output,  # no pipe: a daemon would hold it open
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                umask=0o022,
                check=False,
            )
        if done.returncode:
            fault = f"{arguments[0]} ended with {done.returncode} instead of starting"
            raise RuntimeError(f"{fault}\n{self._log_tails()}")

    def _stop(self, daemon: str, how: signal.Signals) -> None:
        self._signal(how, lambda name: name == daemon)
        self.wait_until(lambda: not self._running(daemon), f"the end of {daemon}")

    def _running(self, daemon: str) -> bool:
        return any(process.info["name"] == daemon for process in self._processes())

    def _signal(self, how: signal.Signals, wanted: Callable[[str], bool]) -> bool:
        """Signals those of this cluster's processes whose name is wanted; False: there are none."""
        processes = [process for process in self._processes() if wanted(process.info["name"])]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(how)
        return bool(processes)

    def _processes(self) -> Iterator[psutil.Process]:
        """This cluster's daemons and all that its jobs started, by environment or folder.

        SLURM's helpers overwrite their environment with a title, and munged leaves the folder.
        """
        for process in psutil.process_iter(["name", "environ", "cwd"]):
            env = process.info["environ"] or {}
            ours = env.get("SLURM_CONF") == str(self.conf)
            inside = Path(process.info["cwd"] or "/").is_relative_to(self.folder)
            daemon = process.info["name"] in DAEMONS
            if (daemon and (ours or inside)) or (ours and "SLURM_JOB_ID" in env):
                yield process

    def _log_tails(self) -> str:
        """The last lines of each log."""
        logs = sorted((self.folder / "log").glob("*"))
        tails = [(log.name, log.read_text(errors="replace").splitlines()[-5:]) for log in logs]
        return "\n".join(f"{name}: {line}" for name, lines in tails for line in lines)


def _free_port() -> int:
    """A port that nobody uses, below those that the kernel hands out to connections by itself."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        return True
    return False


def main(arguments: list[str] | None = None) -> int:
    """Brings up, takes down or shows a cluster in a folder.

    Args:
        arguments: the command line, or None for this program's own.

    Returns:
        The program's exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster")
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("folder", type=Path, help="where all state of the cluster is")
    parser.add_argument("--accounting", action="store_true", help="up: with MariaDB and slurmdbd")
    given = parser.parse_args(arguments)
    cluster = Cluster(given.folder, accounting=given.accounting)
    try:
        _do(given.command, cluster)
    except (OSError, RuntimeError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def _do(command: str, cluster: Cluster) -> None:
    if reason := cluster.missing():
        raise RuntimeError(reason)
    if command == "up":
        cluster.up()
        print(f"export SLURM_CONF={cluster.conf}")
        return
    if not cluster.conf.is_file():  # also: no folder but a cluster's is ever removed
        raise FileNotFoundError(f"there is no cluster in {cluster.folder}")
    if command == "down":
        cluster.down()
        return
    print(cluster.run("sinfo"), cluster.run("squeue"), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
