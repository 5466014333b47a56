"""Label, annotation and port names that the operator writes and routers, workers and people read."""

GROUP = "tandem.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE = "tandem"
COMPONENT = "app.kubernetes.io/component"

FLEET = "tandem.dev/fleet"
ROLE = "tandem.dev/role"  # what a worker does: prefill, decode, or mixed
POOL = "tandem.dev/pool"  # the WorkerPool it counts for: prefill or decode (a mixed worker is in the decode pool)
KV_REVISION = "tandem.dev/kv-revision"
TEMPLATE_REVISION = "tandem.dev/template-revision"
REVISION = "tandem.dev/revision"  # of a ControllerRevision: all templates of the fleet together

DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"  # Kubernetes' own: the lowest goes first
HTTP_PORT_ANNOTATION = "tandem.dev/http-port"
KV_PORT_ANNOTATION = "tandem.dev/kv-port"
ADMIN_PORT_ANNOTATION = "tandem.dev/admin-port"

HTTP_PORT = 8000
ADMIN_PORT = 8001
KV_BASE_PORT = 5600  # one port per tensor-parallel rank, counted up from here
NIXL_PORT = 5700  # where NIXL's peers ask for one another's metadata; its data ports are ephemeral
ROUTER_HTTP_PORT = 8080
ROUTER_INTERNAL_PORT = 8443

ROUTER_COMPONENT = "router"
OPERATOR_COMPONENT = "operator"
WORKER_COMPONENT = "worker"
