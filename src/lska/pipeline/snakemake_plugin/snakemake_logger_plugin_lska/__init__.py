"""A logger plugin of Snakemake that writes every job it announces as a line of JSON, for `lska.pipeline.dry_run`.

Plugins are the interface that Snakemake keeps stable for this; its printed text is for people and changes.
"""

import json
from dataclasses import dataclass, field
from logging import LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """The options of the plugin."""

    jobs: str = field(default="", metadata={"help": "File that jobs are appended to", "required": True})


class LogHandler(LogHandlerBase):
    """Writes jobs; what Snakemake says to people is left to its own handler."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: LogRecord) -> None:
        """Append the job of a record, if it announces one."""
        if getattr(record, "event", None) != LogEvent.JOB_INFO:
            return
        job = {
            "id": record.jobid, "rule": record.rule_name, "wildcards": dict(record.wildcards or {}),
            "inputs": list(record.input), "outputs": list(record.output), "threads": record.threads,
            "gpus": record.resources.get("gpu", 0), "reason": record.reason,
        }  # fmt: skip
        with Path(self.settings.jobs).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(job) + "\n")
