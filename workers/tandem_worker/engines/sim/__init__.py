"""Engine `sim`: vLLM's HTTP surface, state, KV parameters and faults, with modelled time and invented text.

It runs inside the supervisor's own process, as asyncio tasks: one Python instead of two halves its memory, which is
what a simulated engine is for; a simulated engine that dies takes its worker with it, as a real one does.

    settings   what `extra_args` may set            text       deterministic words, token counts, prefix blocks
    timing     milliseconds of one step             batch      continuous batching, pure
    openai     requests and answers, pure           handover   leases, tickets, pulls
    faults     what to break, and how often         server     the HTTP side; `engine` puts it all together
"""
