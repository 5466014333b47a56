"""Specs of every shape that admission lets through, in wire form."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

JsonStrategy = st.SearchStrategy[dict[str, Any]]

HOSTILE = st.sampled_from(
    ["$(id)", "`id`", "; rm -rf /", "$(TANDEM_WORKER)", "a\nb", '"', "../..", "--privileged", "é"]
)
WORDS = st.sampled_from(["a", "team-x", "h200", "x.example"])
TEXTS = WORDS | HOSTILE
SOURCES = st.sampled_from(
    [
        *("hf://org/model", "pvc://claim/a/b", "pvc://claim", "pvc://other/c", "oci://registry.example/m:1#weights"),
        *("oci://m@sha256:0123", "s3://team-models/llama/8b", "s3://other-bucket", "synthetic://tiny-llama"),
    ]
)
ADAPTER_SOURCES = SOURCES.filter(lambda source: not source.startswith("synthetic"))


def some(**fields: st.SearchStrategy[Any]) -> JsonStrategy:
    """An object with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


selectors = some(
    matchLabels=st.dictionaries(WORDS, WORDS, max_size=2),
    matchExpressions=st.lists(st.just({"key": "a", "operator": "Exists"}), max_size=1),
)
near = st.fixed_dictionaries({"topologyKey": WORDS}, optional={"labelSelector": selectors})
weighted = st.fixed_dictionaries({"weight": st.integers(1, 100), "podAffinityTerm": near})
terms = st.fixed_dictionaries(
    {"matchExpressions": st.just([{"key": "gpu", "operator": "In", "values": ["h200"]}])},
)
pod_affinity = some(
    requiredDuringSchedulingIgnoredDuringExecution=st.lists(near, max_size=2),
    preferredDuringSchedulingIgnoredDuringExecution=st.lists(weighted, max_size=2),
)
affinity = some(
    nodeAffinity=some(
        requiredDuringSchedulingIgnoredDuringExecution=st.fixed_dictionaries(
            {"nodeSelectorTerms": st.lists(terms, min_size=1, max_size=2)}
        )
    ),
    podAffinity=pod_affinity,
    podAntiAffinity=pod_affinity,
)
spread = st.fixed_dictionaries(
    {
        "maxSkew": st.integers(1, 5),
        "topologyKey": WORDS,
        "whenUnsatisfiable": st.just("ScheduleAnyway"),
    },
    optional={"labelSelector": selectors},
)
variables = st.one_of(
    st.fixed_dictionaries({"name": st.sampled_from(["NCCL_DEBUG", "A"]), "value": TEXTS}),
    st.fixed_dictionaries(
        {"name": st.just("B"), "valueFrom": st.just({"secretKeyRef": {"name": "s", "key": "k"}})},
    ),
    st.fixed_dictionaries(
        {"name": st.just("C"), "valueFrom": st.just({"configMapKeyRef": {"name": "c", "key": "k"}})},
    ),
)
claims = st.sampled_from(
    [{"name": "gpu", "resourceClaimTemplateName": "four"}, {"name": "nic", "resourceClaimName": "shared"}]
)
pod_templates = some(
    labels=st.dictionaries(WORDS, WORDS, max_size=2),
    annotations=st.dictionaries(WORDS, TEXTS, max_size=2),
    env=st.lists(variables, max_size=3, unique_by=lambda variable: variable["name"]),
    nodeSelector=st.dictionaries(WORDS, WORDS, max_size=2),
    tolerations=st.lists(st.just({"operator": "Exists"}), max_size=1),
    affinity=affinity,
    topologySpreadConstraints=st.lists(spread, max_size=1),
    schedulerName=WORDS,
    priorityClassName=WORDS,
    runtimeClassName=WORDS,
    imagePullSecrets=st.lists(st.just({"name": "pull"}), max_size=1),
    resourceClaims=st.lists(claims, max_size=2, unique_by=lambda claim: claim["name"]),
)
settings_of_a_role = some(
    batching=some(maxNumSeqs=st.integers(1, 512), chunkedPrefill=st.booleans()),
    kvCache=some(memory=st.just("1Gi"), gpuMemoryUtilization=st.just(0.8)),
    prefixCaching=st.booleans(),
    attentionBackend=st.just("FLASHINFER"),
    extraArgs=st.lists(st.just("--seed=7") | HOSTILE.filter(lambda text: not text.startswith("-")), max_size=2),
)
resources = some(
    cpu=st.just("4"),
    memory=st.just("8Gi"),
    gpuResource=st.just("amd.com/gpu"),
    gpu=st.just(0),
    sharedMemory=st.just("1Gi"),
)
speculation = st.one_of(
    st.just({"method": "ngram", "tokens": 3}),
    st.just({"method": "mtp", "tokens": 1}),
    st.builds(lambda source: {"method": "eagle3", "tokens": 2, "source": source}, ADAPTER_SOURCES),
)
adapters = st.lists(ADAPTER_SOURCES, max_size=3).map(
    lambda sources: [{"name": f"adapter-{n}", "source": source} for n, source in enumerate(sources)]
)
stores = some(endpoint=st.just("http://minio.team:9000"), region=st.just("eu-1"), credentialsSecret=st.just("bucket"))
models = st.fixed_dictionaries(
    {"name": TEXTS, "source": SOURCES},
    optional={
        "servedName": TEXTS,
        "adapters": adapters,
        "cache": st.just({"claimName": "cache"}),
        "objectStore": stores,
        "tokenSecret": st.just({"name": "hub", "key": "token"}),
    },
)
engines = settings_of_a_role.flatmap(
    lambda common: some(
        type=st.sampled_from(["vllm", "sim"]),
        quantization=st.just("fp8"),
        speculative=speculation,
        lora=st.just({"maxRank": 32}),
    ).map(lambda engine: {**common, **engine})
)


def pools(**parallelism: st.SearchStrategy[int]) -> JsonStrategy:
    """A pool; `parallelism` beside tensor."""
    return st.fixed_dictionaries(
        {
            "replicas": st.integers(0, 3),
            "parallelism": st.fixed_dictionaries({"tensor": st.sampled_from([1, 2, 4]), **parallelism}),
        },
        optional={
            "resources": resources,
            "engineOverrides": settings_of_a_role,
            "podTemplate": pod_templates,
        },
    )


localities = st.fixed_dictionaries({"topologyKey": WORDS}, optional={"required": st.booleans()})
disaggregated = st.fixed_dictionaries(
    {"model": models, "engine": engines, "prefill": pools(), "decode": pools()},
    optional={"kvTransfer": some(locality=localities)},
)
aggregated = st.fixed_dictionaries(
    {
        "model": models,
        "engine": engines,
        "decode": pools(pipeline=st.sampled_from([1, 2]), data=st.sampled_from([1, 2])),
    }
)
specs = disaggregated | aggregated
