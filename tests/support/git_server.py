"""git's own `http-backend` behind an HTTP server: git_server.py ROOT PORT LOG.

What ROOT/.fault says is done to the next answers to `git-upload-pack`: `cut N` ends the connection after N bytes,
`slow N` sends N bytes a second, `damage` turns a bit of the last quarter. ROOT/.user is `user:password`, if one is asked for.
ROOT/.old has the protocol's version left out, as old servers do."""

import base64
import http.server
import os
import subprocess
import sys
import time

root, port, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def said(name):
    try:
        with open(os.path.join(root, name)) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.pass_on()

    do_POST = do_GET

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with open(log, "a") as file:
            file.write(f"{self.command} {self.path}\n")
        user = said(".user")
        if user and self.headers.get("authorization") != "Basic " + base64.b64encode(user[0].encode()).decode():
            self.answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"")
            return
        path, _, query = self.path.partition("?")
        version = "" if said(".old") else self.headers.get("git-protocol", "")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": root,
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": version,
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE)
        head, _, out = done.stdout.partition(b"\r\n\r\n")
        status, headers = 200, []
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name == "Status":
                status = int(value.split()[0])
            elif name:
                headers.append((name, value))
        self.answer(status, headers, out, said(".fault") if b"packfile" in out or b"PACK" in out else [])

    def answer(self, status, headers, body, fault=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault[:1] == ["cut"]:
            self.wfile.write(body[: int(fault[1])])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault[:1] == ["slow"]:
            step = max(1, int(fault[1]) // 20)
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                self.wfile.flush()
                time.sleep(0.05)
        elif fault[:1] == ["damage"]:
            at = len(body) * 3 // 4
            self.wfile.write(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
        else:
            self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
