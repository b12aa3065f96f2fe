"""What `scontrol show` prints: jobs, nodes and partitions in Slurm's layout, over lines or (`-o`) in one.

Layouts as recorded in tests/data/slurm/scontrol_*.txt; what we do not have stands there as Slurm shows it when unset.
"""

from __future__ import annotations

from agent.api.hostlist import compress
from agent.api.queue import Partition, Reservation
from tui.slurm import job as jobs_as
from tui.slurm import times
from tui.slurm.job import View
from tui.slurm.nodes import Host, partition_up
from tui.slurm.steps import Step

_DEPTH = "   "


def job(view: View, *, detail: bool = False) -> list[str]:
    """Lines of one job."""
    each = view.job
    group, gid = jobs_as.group(each.user)
    array = ""
    if each.array_job_id is not None:
        throttle = f" ArrayTaskThrottle={view.throttle}" if view.throttle else ""
        array = f" ArrayJobId={each.array_job_id} ArrayTaskId={view.task}{throttle}"
    running = bool(view.nodes)
    lines = [
        f"JobId={each.id}{array} JobName={each.name}",
        f"UserId={each.user}({jobs_as.uid(each.user)}) GroupId={group}({gid}) MCS_label=N/A",
        f"Priority={each.priority or 0} Nice={each.nice} Account={_null(each.account)} QOS={each.qos or 'normal'}",
        f"JobState={view.state} Reason={view.reason} Dependency={view.dependency}",
        f"Requeue={int(each.requeue)} Restarts={max(0, each.attempt - 1)} BatchFlag=1 Reboot=0 "
        f"ExitCode={view.exit_code}",
        *(["DerivedExitCode=" + view.exit_code] if detail else []),
        f"RunTime={times.full(view.elapsed_s)} TimeLimit={times.full(each.time_limit_s)} TimeMin=N/A",
        f"SubmitTime={times.stamp(each.submitted_at)} EligibleTime={times.stamp(view.eligible_at)}",
        f"AccrueTime={times.stamp(None if view.waits_to_count else each.submitted_at)}",
        f"StartTime={times.stamp(view.start_at)} EndTime={times.stamp(view.end_at)} "
        f"Deadline={times.stamp(each.deadline_at, 'N/A')}",
        "SuspendTime=None SecsPreSuspend=0 LastSchedEval=Unknown Scheduler=Main",
        f"Partition={view.partition_name} AllocNode:Sid={each.node}:0",
        "ReqNodeList=(null) ExcNodeList=(null)",
        f"NodeList={view.nodes}",
        *([f"BatchHost={view.nodes}"] if running else []),
        f"NumNodes=1 NumCPUs={view.cpus} NumTasks={each.tasks} CPUs/Task={each.cpus_per_task} ReqB:S:C:T=0:0:*:*",
        f"TRES={view.tres}",
        f"Socks/Node=* NtasksPerN:B:S:C={each.ntasks_per_node or 0}:0:*:* CoreSpec=*",
        *(_detail(view) if detail and running else []),
        f"MinCPUsNode={each.cpus_per_task} {_memory(view)} MinTmpDiskNode=0",
        f"Features={view.features} DelayBoot=00:00:00",
        *([f"Reservation={each.reservation}"] if each.reservation else []),
        f"OverSubscribe={'NO' if each.exclusive else 'OK'} Contiguous=0 Licenses={view.licenses} Network=(null)",
        f"Command={_null(' '.join([view.command, *each.args]) if view.command else '')}",
        f"WorkDir={each.work_dir}",
        *([f"Comment={each.comment} "] if each.comment else []),
        f"StdErr={view.stderr}",
        f"StdIn={each.input_path or '/dev/null'}",
        f"StdOut={view.stdout}",
        "Power=",
        *([f"TresPerNode={view.gres}"] if view.gres != "N/A" else []),
        *(["KillOInInvalidDependent=Yes"] if each.kill_on_invalid_dep else []),
        *([f"MailUser={each.mail_user or each.user} MailType={','.join(each.mail_types)}"] if each.mail_types else []),
    ]
    return [*lines, ""]


def _memory(view: View) -> str:
    if view.job.memory_per_cpu_bytes is not None:
        return f"MinMemoryCPU={times.size(view.job.memory_per_cpu_bytes)}"
    return f"MinMemoryNode={times.size(view.job.memory_bytes)}"


def _detail(view: View) -> list[str]:
    """`-d`: which GPUs."""
    gpus = view.gpu_detail
    memory = (view.job.memory_bytes or 0) // 2**20
    return [f"JOB_GRES={gpus.partition('(')[0] or '(null)'}", f"  Nodes={view.nodes} CPU_IDs= Mem={memory} GRES={gpus}"]


def step(each: Step) -> list[str]:
    """Lines of one step that runs."""
    view, told = each.view, each.told
    tres = "(null)" if told is None else f"cpu={each.cpus},node=1"
    return [
        f"StepId={each.id} UserId={jobs_as.uid(each.job.user)} StartTime={times.stamp(each.started_at)} "
        "TimeLimit=UNLIMITED",
        f"State={each.state} Partition={view.partition_name} NodeList={view.nodes}",
        f"Nodes=1 CPUs={0 if told is None else each.cpus} Tasks={each.tasks} Name={each.name} Network=(null)",
        f"TRES={tres}",
        "ResvPorts=(null)",
        "CPUFreqReq=Default" + ("" if told is None else " Dist=Block"),
        f"SrunHost:Pid={'(null)' if told is None else view.nodes}:0",
    ]


def node(host: Host, partitions: str) -> list[str]:
    """Lines of one node."""
    known = host.node
    if known is None:
        return [f"NodeName={host.name} State=DOWN*", f"Reason={host.status.reason or 'not heard of yet'}"]
    load = "N/A" if known.load_1m is None else f"{known.load_1m:.2f}"
    total, free = known.memory_total_bytes // 2**20, known.memory_available_bytes // 2**20
    used = host.memory_used_bytes // 2**20
    lines = [
        f"NodeName={host.name} CoresPerSocket=1 ",
        f"CPUAlloc={host.cpus_used} CPUEfctv={host.cpus} CPUTot={host.cpus} CPULoad={load}",
        f"AvailableFeatures={host.features}",
        f"ActiveFeatures={host.features}",
        f"Gres={host.gres}",
        f"NodeAddr={host.name} NodeHostName={host.name} Version={known.version}",
        f"RealMemory={total} AllocMem={used} FreeMem={free} Sockets={host.cpus} Boards=1",
        f"State={state(host)} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A",
        f"Partitions={partitions} ",
        "BootTime=None SlurmdStartTime=None",
        "LastBusyTime=Unknown",
        f"CfgTRES=cpu={host.cpus},mem={total}M,billing={host.cpus}{_gpus(host.gpus)}",
        f"AllocTRES={_alloc(host)}",
        "CapWatts=n/a",
        "CurrentWatts=0 AveWatts=0",
        "ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s",
    ]
    for drain in host.drains:
        of = "" if drain.gpu_uuid is None else f"{drain.gpu_uuid}: "
        lines.append(f"Reason={of}{drain.reason} [{drain.by}@{times.stamp(drain.at)}]")
    return lines


def state(host: Host) -> str:
    """`MIXED+DRAIN`, `IDLE`, `DOWN*`."""
    word = host.long_state.rstrip("*").upper()
    if word in ("DRAINING", "DRAINED"):
        word = "MIXED+DRAIN" if host.jobs else "IDLE+DRAIN"
    if word in ("MAINT", "RESERVED"):
        word = f"IDLE+{word}"
    return word + ("" if host.responds else "*")


def partition(each: Partition, hosts: list[Host], nodes: str) -> list[str]:
    """Lines of one partition."""
    cpus = sum(host.cpus for host in hosts)
    memory = sum(host.node.memory_total_bytes for host in hosts if host.node) // 2**20
    gpus = sum(host.gpus for host in hosts) if each.gpu_indexes is None else len(each.gpu_indexes) * len(hosts)
    return [
        f"PartitionName={each.name}",
        "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL",
        f"AllocNodes=ALL Default={'YES' if each.default else 'NO'} QoS=N/A",
        f"DefaultTime={times.full(each.default_time_s, 'NONE')} DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 "
        "Hidden=NO",
        f"MaxNodes=1 MaxTime={times.full(each.max_time_s)} MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED",
        f"Nodes={nodes}",
        f"PriorityJobFactor=1 PriorityTier={each.priority_tier} RootOnly=NO ReqResv=NO OverSubscribe=NO",
        "OverTimeLimit=NONE PreemptMode=OFF",
        f"State={partition_up(each).upper()} TotalCPUs={cpus} TotalNodes={len(hosts)} SelectTypeParameters=NONE",
        "JobDefaults=(null)",
        "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED",
        f"TRES=cpu={cpus},mem={memory}M,node={len(hosts)},billing={cpus}{_gpus(gpus)}",
    ]


def reservation(each: Reservation, now: float, hosts: list[Host]) -> list[str]:
    """Lines of one reservation."""
    active = "ACTIVE" if each.start_at <= now < each.end_at else "INACTIVE"
    flags = "MAINT,SPEC_NODES" if each.maintenance else "SPEC_NODES"
    node = compress([host.name for host in hosts])
    cpus = sum(host.cpus for host in hosts)
    tres = f"gres/gpu={len(each.gpu_uuids)}" if each.gpu_uuids else f"cpu={cpus}"
    return [
        f"ReservationName={each.name} StartTime={times.stamp(each.start_at)} EndTime={times.stamp(each.end_at)} "
        f"Duration={times.full(each.end_at - each.start_at)}",
        f"Nodes={node} NodeCnt={len(hosts)} CoreCnt={0 if each.gpu_uuids else cpus} Features=(null) "
        f"PartitionName=(null) Flags={flags}",
        f"TRES={tres}",
        f"Users={_null(','.join(each.users))} Groups=(null) Accounts={_null(','.join(each.accounts))} "
        f"Licenses=(null) State={active} BurstBuffer=(null) Watts=n/a",
        "MaxStartDelay=(null)",
        *([f"Comment={each.comment}"] if each.comment else []),
    ]


def text(lines: list[str], *, one_line: bool) -> str:
    """A record as it is printed, with its empty line after it."""
    if one_line:
        return " ".join(line for line in lines if line)
    return "\n".join([lines[0], *(f"{_DEPTH}{line}" for line in lines[1:])]) + "\n"


def _alloc(host: Host) -> str:
    if not host.jobs:
        return ""
    memory = f",mem={times.size(host.memory_used_bytes)}" if host.memory_used_bytes else ""
    return f"cpu={host.cpus_used}{memory}{_gpus(host.gpus_used)}"


def _gpus(count: int) -> str:
    return f",gres/gpu={count}" if count else ""


def _null(value: str | None) -> str:
    return value or "(null)"
