"""How many workers each pool should have. Pure: reads no clock, no network, no random source; `now_s` is an argument.

demand   what arrived and what ended, in 1-second bins, summed over the routers
health   may these numbers be trusted? else Hold
prefill  replay of real arrivals through the router's own queue order
decode   inflow × residency one start-up ahead, bounded by KV, slots and TPOT
budget   slow outer loop on the share of missed targets
limits   min, max, ratio, GPU budget, rate: the bound that won is named
supply   what this region cannot reach, or what room it has; region_words: what the others say of theirs
decide   all of it, as one explainable value
"""
