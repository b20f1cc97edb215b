# SPDX-License-Identifier: GPL-2.0-only
"""results.json -> results.md, with goals beside values; plots.py makes the plots."""

import json
import os
import statistics
import subprocess

import watchers

median = statistics.median


def update(here, results):
    """Put the results of the sections that were run beside those of the others."""
    path = os.path.join(here, "results.json")
    known = load(here)
    known.update(results)
    with open(path, "w") as file:
        json.dump(known, file, indent=1, sort_keys=True)
        file.write("\n")


def load(here):
    try:
        with open(os.path.join(here, "results.json")) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write(here):
    """Write results.md and the plots; the exit status."""
    with open(os.path.join(here, "results.md"), "w") as file:
        file.write(table(load(here)))
    return subprocess.call([watchers.VENV_PYTHON, os.path.join(here, "plots.py")])


# --- the numbers that goals are about ---

def least(runs, key):
    """The least of a number over runs: other load on the machine only ever adds to it."""
    return min(run[key] for run in runs)


def slowdown(section, name):
    """By how much of its processor time a worker is slower under a watcher, 0.05 for 5 %."""
    return least(section["watchers"][name], "cpu") / least(section["none"], "cpu") - 1


def per_file(section, name):
    """The watcher's processor time for a file, in seconds."""
    return least(section["watchers"][name], "watcher_cpu") / section["files"]


def percent(value):
    return "%.1f %%" % (100 * value)


def micro(value):
    return "%.2f µs" % (1e6 * value)


def milli(value):
    return "%.2f ms" % (1e3 * value)


def count(number):
    return "{:,}".format(number)


def goals(results):
    """Rows (what, goal, value, whether reached or None) of the sections there are."""
    rows = []
    for name, function in (("ready", ready_goals), ("outside", outside_goals),
                           ("inside", inside_goals), ("latency", latency_goals),
                           ("capacity", capacity_goals), ("growth", growth_goals),
                           ("window", window_goals), ("ended", ended_goals),
                           ("fastpath", fastpath_goals), ("trace", trace_goals)):
        if name in results:
            rows += function(results[name])
    return rows


def ready_goals(section):
    sizes, rows = section["directories"], []
    times = [each["median"] for each in section["watchers"]["fanfp marks"]]
    base = median([each["median"] for each in section["python -c pass"]])
    rows.append(("ready on %s directories, against on %s"
                 % (count(sizes[-1]), count(sizes[0])), "flat (at most 1.2 times)",
                 "%.2f times" % (times[-1] / times[0]), times[-1] <= 1.2 * times[0]))
    rows.append(("ready, in times of `python3 -c pass` (%s)" % milli(base), "at most 4",
                 "%.1f" % (median(times) / base), median(times) <= 4 * base))
    module = [each["median"] for each in section["watchers"].get("fanfp marks, as a module", ())]
    if module:
        rows.append(("the same, run as a module (`python3 -m fanfp`), which Python compiles once",
                     "-", "%.1f" % (median(module) / base), None))
    other = section["watchers"].get("inotifywait", [])
    if 100000 in sizes and len(other) > sizes.index(100000) and other[sizes.index(100000)]:
        at = sizes.index(100000)
        ratio = other[at]["median"] / times[at]
        rows.append(("ready on 100,000 directories, how much sooner than inotifywait -r",
                     "at least 15 times", "%.1f times" % ratio, ratio >= 15))
    return rows


def outside_goals(section):
    slow = slowdown(section, "fanfp marks")
    share = per_file(section, "fanfp marks") / per_file(section, "fanfp user")
    reads = median([run["reads"] for run in section["watchers"]["fanfp marks"]])
    return [
        ("outside: worker slowed by `marks`", "at most 5 %", percent(slow), slow <= 0.05),
        ("outside: fanfp's processor time with `marks`, of that with an unfiltered mark",
         "under 1 %", "%.2f %%" % (100 * share), share < 0.01),
        ("outside: reads by `marks` after the first event of each directory", "none",
         "%d" % reads, reads == 0),
        ("outside: worker slowed by `marks` when ATTRIB is asked for", "-",
         percent(slowdown(section, "fanfp marks, with ATTRIB")), None),
        ("outside: fanfp's processor time with `marks` and ATTRIB", "-",
         "%s a file" % micro(per_file(section, "fanfp marks, with ATTRIB")), None)]


def inside_goals(section):
    own = per_file(section, "fanfp marks")
    lost = sum(run.get("lost", 0) for run in section["watchers"]["fanfp marks"])
    rows = [("inside: events lost", "none", count(lost), lost == 0)]
    for name, goal, words in (("fatrace", 0.2, "a fifth"), ("inotifywait", 1 / 3.0, "a third")):
        if not section["watchers"].get(name):
            continue
        for peer, target in ((name, goal), (name + ", same events", None)):
            if section["watchers"].get(peer):
                share = own / per_file(section, peer)
                rows.append(("inside: fanfp's processor time, of that of " + peer,
                             "at most " + words if target else "-", "%.2f" % share,
                             share <= target if target else None))
    return rows


def latency_goals(section):
    own = section["alone"]["fanfp marks"]["median"]
    load = section["load"]["fanfp marks"]
    return [("latency, alone, median", "under 1 ms", milli(own), own < 0.001),
            ("latency under load, median and 99 of 100", "-",
             "%s, %s" % (milli(load["median"]), milli(load["p99"])), None)]


def capacity_goals(section):
    recorded = section["recorded"]
    rate = 1 / recorded["decode, judge, print"]
    rows = [("events a second from a recorded buffer, decoded, judged and printed",
             "at least 500,000", count(int(rate)), rate >= 500000),
            ("the same, printed as JSON", "-",
             count(int(1 / recorded["decode, judge, print JSON"])), None),
            ("the same, only decoded", "-", count(int(1 / recorded["decode"])), None)]
    own = least(section["live"]["fanfp user"], "per_event")
    rows.append(("events a second from a full queue", "-", count(int(1 / own)), None))
    if "C reader" in section["live"]:
        ratio = own / least(section["live"]["C reader"], "per_event")
        rows.append(("time for an event from a full queue, in times of a C program that only reads",
                     "at most 2", "%.1f" % ratio, ratio <= 2))
    return rows


def growth_goals(section):
    rows = []
    for key, words in (("roots", "roots"), ("depth", "levels")):
        costs = [(int(number), min(runs)) for number, runs in section[key].items()]
        rows.append(growth_row("cost of an event with %s " + words, sorted(costs)))
    costs = [(int(number), least(runs, "per_event"))
             for number, runs in section["directories"].items()]
    rows.append(growth_row("cost of an event with %s directories heard from", sorted(costs)))
    # Not of 10: what a start costs is in it.
    for key, words in (("directories", "inside"), ("outside", "outside")):
        costs = [(int(number), least(runs, "first")) for number, runs in section[key].items()]
        rows.append(growth_row("first event of each of %s directories " + words,
                               sorted(costs)[1:]))
    rows.append(growth_row("a save by rename, of %s that wait",
                           sorted((int(number), cost)
                                  for number, cost in section["backlog"].items())[1:]))
    many = sorted(map(int, section["directories"]))[-1]
    found = section["outside"][str(many)][0]
    memory = section["directories"][str(many)][0]["memory"]
    kernel = "; %d MB" % (found["kernel memory"] >> 20) if found["kernel memory"] else ""
    rows.append(("memory with %s directories heard from inside; outside%s"
                 % (count(many), "; and the kernel's marks" if kernel else ""), "bounded",
                 "%d MB; %d MB%s" % (memory >> 20, found["memory"] >> 20, kernel),
                 max(memory, found["memory"]) < 200 << 20))
    return rows


def growth_row(what, costs):
    """A row about how a cost grows; flat is within a fifth from the first to the dearest."""
    first, dearest = costs[0][1], max(cost for _, cost in costs)
    return (what % ", ".join(count(number) for number, _ in costs), "flat (at most 1.2 times)",
            ", ".join(micro(cost) for _, cost in costs), dearest <= 1.2 * first)


def window_goals(section):
    return [("`marks`: from a directory's move into the tree until its ignore mark is gone", "-",
             "median %s, 99 of 100 %s" % (milli(section["median"]), milli(section["p99"])), None),
            ("files made in it meanwhile that are found one by one, by their time", "-",
             "%d of %d" % (section["found"], section["files"]), None),
            ("moves in which that was not all, and MODIFY of the directory did not say so", "none",
             "%d of %d" % (section["silent"], section["moves"]), not section["silent"])]


def ended_goals(section):
    return [("who did it: processor time until the ends of processes are noted", "at most 5 ms",
             milli(section["start"]), section["start"] <= 0.005),
            ("who did it: in the kernel, for each process that ends", "at most 1 µs",
             micro(section["note"]), section["note"] <= 1e-6),
            ("who did it: the kernel's memory for it", "bounded",
             "%d MB" % (section["table"] >> 20), None),
            ("who did it: the name of a process that lives; that has ended; all of one", "-",
             ", ".join(micro(section[name]) for name in ("living", "ended", "living, in full")),
             None)]


def fastpath_goals(section):
    base = least(section["runs"]["none"], "worker")
    rows = []
    for name, goal in (("fastpath", 0.10), ("hook", None), ("marks", None), ("user", None)):
        slow = least(section["runs"][name], "worker") / base - 1
        what = "`%s`" % name if name != "hook" else "a handler in the kernel that drops all"
        rows.append(("in the lab's machine: worker outside slowed by " + what,
                     "at most 10 %" if goal else "-",
                     "%s (%s on %s a file)" % (percent(slow), micro(slow * base), micro(base)),
                     slow <= goal if goal else None))
    loading = section["loading"]
    rows.append(("in the lab's machine: loading the object, processor time", "-",
                 milli(loading["fanfp"]), None))
    if loading.get("bpftool"):
        rows.append(("the same, by `bpftool struct_ops register`", "-", milli(loading["bpftool"]),
                     None))
    return rows


def trace_goals(section):
    rows = []
    for found in section.values():
        if "trace" in found["runs"]:
            rows += [("`trace`, %s: %s" % (linux(found), row[0]),) + row[1:]
                     for row in trace_rows(found) + many_rows(found["directories"])]
    return rows


def linux(found):
    return "Linux " + found["kernel"].partition("+")[0].partition("-")[0]


def slowed(found, name, key):
    """Like slowdown(), of what guest.py found."""
    return least(found["runs"][name], key) / least(found["runs"]["none"], key) - 1


def trace_rows(found):
    runs, rows = found["runs"], []
    for where, key, words in (("outside", "worker", "at most as by `marks`"),
                              ("inside", "worker inside", "less than by `marks`")):
        own, marks = (slowed(found, name, key) for name in ("trace", "marks"))
        rows.append(("worker %s slowed by" % where, "%s (%s)" % (words, percent(marks)),
                     percent(own), own <= marks))
        if "kprobes" in runs:
            rows.append(("the same by kprobes that do nothing", "-",
                         percent(slowed(found, "kprobes", key)), None))
    own, marks = (least(runs[name], "watcher") for name in ("trace", "marks"))
    rows.append(("fanfp's processor time for a file inside", "at most that of `marks` (%s)"
                 % micro(marks), micro(own), own <= marks))
    lines = [median([run["lines"] for run in runs[name]]) for name in ("trace", "marks")]
    rows.append(("the same for a line; lines a file, beside those of `marks`", "-", "%s (%s); "
                 "%.1f, %.1f" % (micro(own / lines[0]), micro(marks / lines[1]), *lines), None))
    for what, key in (("worker outside, a file", "worker"), ("worker inside", "worker inside"),
                      ("fanfp's processor time for a file inside", "watcher")):
        one, many = (least(runs[name], key) for name in ("trace", "trace, 64 roots"))
        rows.append((what + ", with 1 and 64 roots", "flat (at most 1.2 times)",
                     "%s, %s" % (micro(one), micro(many)), many <= 1.2 * one))
    base = min(found["python -c pass"])
    own, marks = (least(runs[name], "ready") for name in ("trace", "marks"))
    rows.append(("ready after that of `marks` (%s), in times of `python3 -c pass` (%s)"
                 % (milli(marks), milli(base)), "at most 3", "%.1f (%s)" % (
                     (own - marks) / base, milli(own - marks)), own - marks <= 3 * base))
    own = found["latency"]["trace"]["median"]
    rows.append(("latency, alone, median", "under 1 ms", "%s (`marks` %s, `inotify` %s)" % (
        (milli(own),) + tuple(milli(found["latency"][name]["median"])
                              for name in ("marks", "inotify"))), own < 0.001))
    burst = found["burst"]
    files, own = burst["files"], burst["trace"]
    rows.append(("lines of a burst of %s files while nothing is read" % count(files),
                 count(files), count(own["lines"]), own["lines"] == files))
    rows.append(("fanfp's processor time for a line of that; for a file, beside `marks`", "-",
                 "%s; %s (%s)" % (micro(own["per_event"]), micro(own["cpu"] / files),
                                  micro(burst["marks"]["cpu"] / files)), None))
    return rows


def many_rows(section):
    chunks, rows = section["inside"]["trace"], []
    for who, prefix in (("fanfp's processor time for", ""), ("the worker's for", "worker ")):
        first, second = (least(chunks, prefix + which) for which in ("first", "second"))
        marks = tuple(micro(least(section["inside"]["marks"], prefix + which))
                      for which in ("first", "second"))
        rows.append(("%s the first and the second file of each of %s directories" % (
            who, count(section["count"])), "flat (at most 1.2 times)", "%s, %s (`marks` %s, %s)" % (
                (micro(first), micro(second)) + marks), first <= 1.2 * second))
    first, last = (least(part, "first")
                   for part in (chunks[:len(chunks) // 2], chunks[len(chunks) // 2:]))
    rows.append(("fanfp's for the first file, the least in one half of them and in the other",
                 "flat (at most 1.2 times)", "%s, %s" % (micro(first), micro(last)),
                 last <= 1.2 * first))
    memory = [each["memory"] / 1e6 for each in chunks]
    rows.append(("memory after a twentieth of the directories, and after all",
                 "flat (at most 1.2 times)", "%.1f MB, %.1f MB" % (memory[0], memory[-1]),
                 memory[-1] <= 1.2 * memory[0]))
    outside = [least(section["outside"][name], "first") for name in ("trace", "marks")]
    rows.append(("fanfp's for the first file of each directory outside, beside `marks`", "none",
                 "%s (%s)" % tuple(map(micro, outside)), outside[0] < 1e-6))
    return rows


# --- tables ---

def table(results):
    """All of results.md."""
    machine, versions = results["machine"], results["versions"]
    parts = ["# Measurements\n", "Linux %s, %d cores, Python %s. Beside fanfp: %s. Made by "
             "`make bench`.\n" % (machine["kernel"], machine["cores"], machine["python"],
                                  ", ".join(sorted(set(versions.values())))),
             "## Goals\n", markdown(["what", "goal", "measured", ""], [
                 (what, goal, value, {True: "reached", False: "**missed**", None: ""}[reached])
                 for what, goal, value, reached in goals(results)])]
    for name, function in (("ready", ready_table), ("outside", noise_table),
                           ("inside", noise_table), ("latency", latency_table),
                           ("capacity", capacity_table), ("trace", trace_table)):
        if name in results:
            parts += ["## %s\n" % HEADINGS[name], function(results[name])]
    return "\n".join(parts)


HEADINGS = {
    "ready": "Ready: median time from exec, and resident memory, by directories in the tree",
    "outside": "Outside: files made, written, closed and removed outside the tree",
    "inside": "Inside: the same in the tree",
    "latency": "Latency: from the end of the operation to its line on the pipe",
    "capacity": "Capacity: processor time for an event",
    "trace": "In the lab's machine: files made, written, closed and removed",
}


def markdown(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def ready_table(section):
    rows = [["python3 -c pass"] + [milli(each["median"]) for each in section["python -c pass"]]]
    for name, found in section["watchers"].items():
        rows.append([name] + ["-" if each is None else "%s, %.0f MB" % (
            milli(each["median"]), each["memory"] / 1e6) for each in found])
    return markdown(["directories"] + [count(each) for each in section["directories"]], rows) \
        + failures(section)


def noise_table(section):
    rows = []
    for name, runs in sorted(section["watchers"].items()):
        if runs:
            rows.append((name, percent(slowdown(section, name)), micro(per_file(section, name)),
                         "%d" % median([run["reads"] for run in runs]),
                         count(int(median([run["lines"] for run in runs])))))
    base = least(section["none"], "cpu") / section["files"]
    return markdown(["watcher", "worker slowed by", "watcher's processor time a file", "reads",
                     "lines"], rows) + \
        "\nThe worker alone takes %s a file; %s files a run, %d runs, the least of them.\n" % (
            micro(base), count(section["files"]), len(section["none"])) + failures(section)


def failures(section):
    text = ""
    for name, reason in sorted(section.get("failed", {}).items()):
        if isinstance(reason, list):
            reason = "at %s directories: %s" % (count(reason[0]), reason[1])
        text += "\nNot measured: %s, %s.\n" % (name, reason)
    return text


def latency_table(section):
    rows = []
    for name, alone in section["alone"].items():
        load = section["load"].get(name)
        rows.append([name, milli(alone["median"]), milli(alone["p99"])] + (
            [milli(load["median"]), milli(load["p99"])] if load else ["-", "-"]))
    return markdown(["watcher", "alone: median", "99 of 100", "under load: median", "99 of 100"],
                    rows) + failures(section)


def capacity_table(section):
    rows = [("recorded: " + name, micro(section["recorded"][name]),
             count(int(1 / section["recorded"][name])))
            for name in ("decode", "decode, judge", "decode, judge, print",
                         "decode, judge, print JSON")]
    for name, runs in section["live"].items():
        cost = least(runs, "per_event")
        rows.append(("full queue: " + name, micro(cost), count(int(1 / cost))))
    return markdown(["", "for an event", "events a second"], rows)


def trace_table(section):
    text = []
    for found in section.values():
        rows = []
        for name, runs in found["runs"].items():
            ready = "ready" in runs[0]
            rows.append([name] + [percent(slowed(found, name, key))
                                  for key in ("worker", "worker inside")] + (
                [micro(least(runs, "watcher outside")), micro(least(runs, "watcher")),
                 "%.1f" % median([run["lines"] for run in runs]),
                 milli(least(runs, "ready"))] if ready else ["-"] * 4))
        text.append(linux(found) + ":\n\n" + markdown(
            ["watcher", "worker outside slowed by", "inside",
             "watcher's processor time a file outside", "inside", "lines a file", "ready"], rows))
        text.append("The worker alone takes %s a file; the least of %d runs of %d parts of %s "
                    "files. The load of the host was %s.\n" % (
                        micro(least(found["runs"]["none"], "worker")), len(found["runs"]["none"]),
                        found["parts"], count(found["files"]),
                        "%.1f" % found["load"] if "load" in found else "not noted"))
    return "\n".join(text)
