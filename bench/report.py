"""The figures of a benchmark as a table, beside what they should reach: `python bench/report.py bench/results.json`."""

import json
import sys


def report(path: str) -> str:
    """Lines of text; where 200 sites x 10 years in float32 are there, the targets as well."""
    results = json.load(open(path))
    machine = results["machine_info"]
    seconds, extra = {}, {}
    for b in results["benchmarks"]:
        name = b["name"].removeprefix("test_")
        seconds[name], extra[name] = b["stats"]["min"], b["extra_info"]
    lines = [f"{machine.get('cpu', {}).get('brand_raw', machine.get('processor', ''))}, {machine['cores']} cores, JAX {machine['jax']}", ""]
    for name, s in seconds.items():
        notes = ", ".join(f"{k} {v:.3g}" for k, v in extra[name].items() if isinstance(v, int | float))
        lines.append(f"{name:55s} {s:10.3f} s   {notes}")
    at = lambda test, kind: seconds.get(f"{test}[200-10-float32-{kind}]")
    add = lambda what, value, target: lines.append(f"{what:70s} {value:8.3g}   target {target}") if value is not None else None
    lines += ["", "200 sites x 10 years, float32"]
    add("forward, share of the yardstick's speed", extra.get("day_loop[200-10-float32-forward]", {}).get("ratio_to_yardstick"), ">= 0.5")
    if at("day_loop", "forward") and at("day_loop", "gradient"):
        add("value and gradient, in forward runs", at("day_loop", "gradient") / at("day_loop", "forward"), "<= 4")
    if at("spinup", "reference") and at("spinup", "accelerated"):
        add("fast spin-up, share of the plain loop", at("spinup", "accelerated") / at("spinup", "reference"), "<= 0.1")
    for data in ("made", "drawn", "real"):
        add(f"fast spin-up within 0.1 % of the loop, share of sites ({data})", extra.get(f"spinup_agreement[{data}]", {}).get("within_0.1_percent"), "1")
    add("site-day of records of unequal length, in those of equal ones", extra.get("unequal", {}).get("cost_of_a_true_site_day"), "<= 1.3")
    memory = {years: extra.get(f"memory_of_the_gradient[{years}]", {}) for years in (10, 40)}
    add("peak memory of the gradient (GiB)", memory[10].get("peak_gib"), "< 1.4 (1.5 GB)")
    if memory[10] and memory[40]:
        add("growth of its temporaries from 10 to 40 years", memory[40]["temporaries_gib"] / memory[10]["temporaries_gib"], "<= 2")
    for kind, most in (("forward", 5), ("gradient", 15)):
        add(f"compile {kind}, cold (s)", extra.get(f"compile[{kind}]", {}).get("cold_seconds"), f"< {most}")
        add(f"compile {kind}, second process (s)", extra.get(f"compile[{kind}]", {}).get("warm_seconds"), "< 2")
    first = extra.get("first_result", {})
    add("README's ten lines, nothing compiled before (s of processor time)", first.get("cold_all"), "< 15 by the clock")
    add("README's ten lines, second process (s of processor time)", first.get("warm_all"), "< 4 by the clock")
    add("one training epoch on the real cube (s)", extra.get("epoch", {}).get("epoch_seconds"), "< 20")
    add("hybridecosys --help (s)", seconds.get("start_of_the_command"), "< 0.5")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(sys.argv[1]))
