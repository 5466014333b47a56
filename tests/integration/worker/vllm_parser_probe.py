"""Gives arguments to the installed vLLM's parser and prints what it read. Started by test_vllm_contract.py.

python vllm_parser_probe.py '[WorkerConfig, …]'
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, get_args

from vllm.config.cache import CacheDType
from vllm.config.speculative import SpeculativeConfig, SpeculativeMethod
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tandem_api.worker import WorkerConfig
from tandem_worker.engines.vllm import build_arguments, find_build
from tandem_worker.group import read_place
from tandem_worker.models import ModelFiles
from tandem_worker.settings import Settings

MODEL = ModelFiles("models/tiny", revision="main", is_tiny=True)


def read(config: WorkerConfig) -> dict[str, Any]:
    """Every value that the parser made of a worker's arguments, as text where JSON has no form for it."""
    place = read_place({"LWS_LEADER_ADDRESS": "leader.group", "LWS_WORKER_INDEX": "1"}, config.engine.nodes)
    settings = Settings(config, "127.0.0.9", Path("/keys"), Path("/run"), Path("/data"), place)
    arguments = build_arguments(settings, MODEL, find_build(), "instance")
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    transfer = parsed.kv_transfer_config
    values = vars(parsed) | {
        "kv_transfer_config": {name: getattr(transfer, name) for name in ("kv_connector", "kv_role")}
        if transfer
        else None,
        "lora_modules": [[module.name, module.path] for module in parsed.lora_modules or ()],
    }
    return json.loads(json.dumps(values, default=str))


def main() -> None:
    configs = [WorkerConfig.model_validate(config) for config in json.loads(sys.argv[1])]
    parser = make_arg_parser(FlexibleArgumentParser())
    report = {
        "read": [read(config) for config in configs],
        "options": sorted({option for action in parser._actions for option in action.option_strings}),
        "quantizations": QUANTIZATION_METHODS,
        "cache_dtypes": get_args(CacheDType),
        "speculative_methods": sorted(flatten(SpeculativeMethod)),
        "speculative_fields": [field.name for field in dataclasses.fields(SpeculativeConfig)],
    }
    print(json.dumps(report))


def flatten(literal: Any) -> set[str]:
    """Names of a Literal, those of the Literals inside it too."""
    return {name for part in get_args(literal) for name in ({part} if isinstance(part, str) else flatten(part))}


main()
