"""One frozen `Config` from one TOML file: `tables` says what may stand in it, `load` reads and `checks` judges it."""

from agent.config.checks import NAME_PATTERN
from agent.config.load import LIVE, SYSTEM_CONFIG, load, merged, parse
from agent.config.resolved import Config, ConfigError
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
    "LIVE",
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
    "merged",
    "parse",
]
