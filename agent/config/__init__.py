"""One frozen `Config` from one TOML file: `tables` says what may stand in it, `load` reads and checks it."""

from agent.config.load import NAME_PATTERN, SYSTEM_CONFIG, Config, ConfigError, load, parse
from agent.config.tables import (
    AccountTable,
    GpuTable,
    HistoryTable,
    HooksTable,
    HubNode,
    HubTable,
    JobsTable,
    LimitsTable,
    Mode,
    NodeTable,
    PartitionTable,
    QosTable,
    ReaperTable,
    SchedulerTable,
)

__all__ = [
    "NAME_PATTERN",
    "SYSTEM_CONFIG",
    "AccountTable",
    "Config",
    "ConfigError",
    "GpuTable",
    "HistoryTable",
    "HooksTable",
    "HubNode",
    "HubTable",
    "JobsTable",
    "LimitsTable",
    "Mode",
    "NodeTable",
    "PartitionTable",
    "QosTable",
    "ReaperTable",
    "SchedulerTable",
    "load",
    "parse",
]
