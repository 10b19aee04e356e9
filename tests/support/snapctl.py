#!/usr/bin/env -S /usr/bin/python3 -IS
"""Stands in for snapd's `snapctl`, with snapd's rules: in a hook (SNAP_COOKIE=hook) what is read and set is the
transaction of that hook, which the test commits if the hook ends well; from elsewhere only what is committed is
seen, and a change is committed at once. Keeps everything as JSON in the folder STAND_IN."""
import json, os, re, sys

place = os.environ["STAND_IN"]
hook = os.environ.get("SNAP_COOKIE") == "hook"
path = os.path.join(place, "staged.json" if hook else "committed.json")
WORD = re.compile(r"^(?:[a-z0-9]+-?)*[a-z](?:-?[a-z0-9])*$")


def end(text):
    sys.stderr.write("error: error running snapctl: %s\n" % text)
    sys.exit(1)


def split(key):
    words = key.split(".") if key else []
    for word in words:
        if not WORD.match(word):
            end('invalid option name: "%s"' % word)
    return words


def find(tree, words):
    for word in words:
        if not isinstance(tree, dict) or word not in tree:
            return None
        tree = tree[word]
    return tree


def put(tree, words, value):
    for word in words[:-1]:
        if not isinstance(tree.get(word), dict):
            tree[word] = {}
        tree = tree[word]
    if value is None:
        tree.pop(words[-1], None)
    else:
        tree[words[-1]] = value


def save(tree):
    with open(path + ".new", "w") as file:
        json.dump(tree, file)
    os.rename(path + ".new", path)


with open(os.path.join(place, "calls.log"), "a") as log:
    log.write("%s %s\n" % ("hook" if hook else "app", json.dumps(sys.argv[1:])))
if os.path.exists(os.path.join(place, "down")):
    end("cannot communicate with server: connection refused")
with open(path) as file:
    tree = json.load(file)
command, words = sys.argv[1], sys.argv[2:]
if command == "get":
    document = "-d" in words
    keys = [word for word in words if word != "-d"]
    if not any(keys[:1]) and len(keys) < 2:
        end("get which option?")
    found = {key: find(tree, split(key)) for key in keys}
    found = {key: value for key, value in found.items() if value is not None}
    if document or len(keys) > 1:
        print(json.dumps(found, indent="\t"))
    else:
        value = found.get(keys[0], "")
        print(value if isinstance(value, str) else json.dumps(value, indent="\t"))
elif command == "set":
    for pair in words:
        key, _, text = pair.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        put(tree, split(key), value)
    save(tree)
elif command == "unset":
    for key in words:
        put(tree, split(key), None)
    save(tree)
elif command == "set-health":
    code = [word for word in words if word.startswith("--code=")]
    state, *message = [word for word in words if not word.startswith("--")]
    if state not in ("okay", "waiting", "blocked", "error"):
        end('invalid status "%s"' % state)
    if state == "okay" and (message or code):
        end("when status is \"okay\", message and code must be empty")
    if state != "okay":
        if len(message) != 1 or not 7 <= len(message[0]) <= 70:
            end("message must be 7 to 70 characters")
        if code and not re.match(r"^--code=[a-z](?:-?[a-z0-9])+$", code[0]):
            end("invalid code")
    with open(os.path.join(place, "health.json"), "w") as file:
        json.dump([state] + message + code, file)
elif command == "services":
    # What runs is the test's own to start; it says so in services.json.
    running = []
    if os.path.exists(os.path.join(place, "services.json")):
        with open(os.path.join(place, "services.json")) as file:
            running = json.load(file)
    print("Service  Startup  Current  Notes")
    for service in running:
        print("edge.%s  enabled  active  -" % service)
else:
    end('unknown command "%s"' % command)
