"""A small kubelet whose pods are local processes: no root, no images, no namespaces.

It registers a Node on a real API server and runs the pods that the scheduler binds to it, so that
scheduling, admission, RBAC, rollouts and deletion are Kubernetes' own and only the node is ours.

What is honest about it: pod phases, conditions, probes, hooks, grace periods, restarts with back-off,
exit codes, projected tokens, volumes with atomic refresh, events and logs follow the kubelet's rules.

What a process cannot have, and what happens instead:

* Mounts: every mount path inside command, args and env values is rewritten to the pod's own folder
  (`paths`). Paths that a program hard-codes, or reads from a file, are not.
* The service account: `TANDEM_SERVICEACCOUNT_DIR` names the folder of token, ca.crt and namespace.
* An image is a name in the image table, which maps it to a virtual environment (`images`).
* A pod's address is its own in 127.0.0.0/8; a program that binds the wildcard address takes the port
  from every other pod.
* Resource limits, GPUs (capacity only), securityContext, Services' environment, hostPath and other
  volumes, gRPC probes, exec, attach and port-forward: not there. What a pod could notice is refused
  with an event; the rest is ignored.
* Containers die with the node process, also by SIGKILL (`processes`), and start again with it
  (restartCount + 1); what they left behind is found by pid files and by environment (`orphans`).
"""
