"""A server on this machine with the files of the Dataverse, and what a download must leave."""

import hashlib
import io
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from examples.ham10000.data.download import FILES, TEST_FILES, download
from examples.ham10000.data.layouts import IMAGE_FOLDERS, LESION_MASKS, METADATA

PART_1, PART_2 = IMAGE_FOLDERS


class Server(ThreadingHTTPServer):
    """Serves ``content`` by request target; ``fault`` says what happens to one of them.

    Attributes:
        requests: the targets asked for, in order.
        agents: the user agents of these requests.
        fault: (target, a status to answer with or "cut" to send only half).
        announce: whether the length is sent.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.requests, self.agents = {}, [], []
        self.fault, self.announce = ("", None), True

    def publish(self, contents):
        """Serve the contents under the names and targets of the official files."""
        files = [
            file._replace(md5=hashlib.md5(contents[file.name]).hexdigest())
            for file in (*FILES, *TEST_FILES)
            if file.name in contents
        ]
        self.content = {f"/{file.tail}": contents[file.name] for file in files}
        return files


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        server.agents.append(self.headers["User-Agent"])
        fault = server.fault[1] if server.fault[0] == self.path else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        body = server.content[self.path]
        self.send_response(200)
        if server.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def log_message(self, *args):
        pass


def archive(contents, compression=zipfile.ZIP_STORED):
    """The bytes of a zip of files by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return buffer.getvalue()


WHOLE = {
    f"{PART_1}/ISIC_1.jpg": b"image 1",
    f"{PART_2}/ISIC_2.jpg": b"image 2",
    METADATA: b"lesion_id,image_id,dx\n",
    f"{LESION_MASKS}/ISIC_1_segmentation.png": b"mask",
}


def small_set():
    """Contents of all four files."""
    parts = (name.split("/") for name in WHOLE if "/" in name)
    archives = {f"{part}.zip": archive({name: WHOLE[f"{part}/{name}"]}) for part, name in parts}
    return {**archives, METADATA: WHOLE[METADATA]}


def tree(folder):
    """All files below a folder, with their contents."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_holds(out, files, others=None):
    """The folder has what comes of the first ``files`` files and these others, nothing else."""
    expected = dict(list(WHOLE.items())[:files]) | (others or {})
    assert tree(out) == expected
    assert {path.name for path in out.iterdir()} == {name.split("/")[0] for name in expected}


def assert_healthy_later(out, server, files):
    """The next call, for a set of which ``files`` are there, asks for the rest only."""
    server.requests.clear()
    server.fault = ("", None)
    published = server.publish(small_set())
    download(out, published, server.url)
    assert_holds(out, 4)
    assert server.requests == [f"/{file.tail}" for file in published[files:]]
