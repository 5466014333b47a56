"""Movement of KV blocks between prefill and decode workers.

Four layers, each replaceable: `layout` (which bytes go where), `session` (who may pull what, and who is alive),
`transport` (how bytes move), `connector` (vLLM's side of it). `docs/design/kv-wire.md` specifies the wire.
"""
