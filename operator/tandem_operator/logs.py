"""JSON log lines. Callers pass `key` and `generation` in `extra`; nothing that is secret is ever logged."""

import json
import logging
import sys
from datetime import UTC, datetime

_EXTRA = ("key", "generation")


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """kopf tells each attempt of each stream as an error, dozens a second, while one line of ours says it all."""
    return not (record.name.startswith("kopf.") and record.getMessage().startswith("Request attempt #"))


def configure_logging(level: str) -> None:
    """Sends all logs to stderr; libraries are heard from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    if level != "debug":
        handler.addFilter(is_worth_a_line)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("tandem_operator").setLevel(level.upper())
