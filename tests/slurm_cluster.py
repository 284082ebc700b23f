"""A Slurm cluster on this machine, for tests and for a look: munged, slurmctld and one slurmd, on loopback only.

    python tests/slurm_cluster.py start FOLDER     prints the SLURM_CONF to export
    python tests/slurm_cluster.py stop FOLDER

Needs Debian's `slurm-wlm` and `munge`, root, and a host name that resolves. There is no accounting (the harder case: a
killed job leaves no trace but its absence), no systemd and no cgroups; `high` preempts `low`, whose jobs are requeued.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")

CONFIGURATION = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket,cred_expire=5
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MpiDefault=none
KillWait=10
MinJobAge=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
"""cred_expire is how long a requeued job waits before it may start again; MinJobAge is short so that an ended job is
soon forgotten, as on a cluster that was busy meanwhile. CPUs is what the node claims, whatever the machine has."""


def missing() -> str:
    """Why no cluster can be started here, or ""."""
    lacking = [command for command in COMMANDS if shutil.which(command) is None]
    if lacking:
        return f"{', '.join(lacking)} not found (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "slurmd must be started by root"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return f"the host name {socket.gethostname()} does not resolve"
    return ""


def start(folder: Path, cpus: int = 6) -> dict[str, str]:
    """Start the daemons below `folder` and wait until the node takes jobs; returns the environment that finds them."""
    folder = folder.resolve()
    for name in ("state", "spool", "log", "munge"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    munge = folder / "munge"
    (munge / "munge.key").write_bytes(os.urandom(1024))
    subprocess.run(["chown", "-R", "munge:munge", munge], check=True)
    munge.chmod(0o755)
    (munge / "munge.key").chmod(0o400)
    files = [f"--key-file={munge}/munge.key", f"--socket={munge}/munge.socket", f"--pid-file={munge}/munged.pid"]
    files += [f"--log-file={munge}/munged.log", f"--seed-file={munge}/munged.seed"]
    as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    subprocess.run([*as_munge, "munged", *files], check=True)

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, node_port = one.getsockname()[1], other.getsockname()[1]
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONFIGURATION.format(host=host, folder=folder, port=port, node_port=node_port, cpus=cpus))
    environment = os.environ | {"SLURM_CONF": str(conf)}
    subprocess.run(["slurmctld", "-c"], check=True, env=environment)
    subprocess.run(["slurmd", "-N", host], check=True, env=environment)
    for _ in range(100):
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if "idle" in shown.stdout:
            return {"SLURM_CONF": str(conf)}
        time.sleep(0.2)
    stop(folder)
    raise RuntimeError(f"the node does not come up: {(folder / 'log' / 'slurmctld.log').read_text()[-2000:]}")


def stop(folder: Path) -> None:
    """End all jobs, their steps' processes and the daemons; return when they are gone."""
    folder = folder.resolve()
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    if (folder / "slurmctld.pid").exists():
        subprocess.run(["scancel", "--full", "--user=root"], env=environment, timeout=30, capture_output=True)
        for _ in range(100):
            shown = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, timeout=30)
            if not shown.stdout.strip():
                break
            time.sleep(0.2)
    for pid_file in (folder / "slurmd.pid", folder / "slurmctld.pid", folder / "munge" / "munged.pid"):
        end(pid_file)


def end(pid_file: Path) -> None:
    """End the daemon that wrote this file, gently, then not."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    action, where = sys.argv[1], Path(sys.argv[2])
    if action == "stop":
        stop(where)
    elif why := missing():
        sys.exit(f"no cluster here: {why}")
    else:
        print("export " + " ".join(f"{key}={value}" for key, value in start(where).items()))
