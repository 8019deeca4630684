"""A server on this machine with the files of the Dataverse, and a small set for it."""

import hashlib
import io
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from examples.ham10000.data.download import FILES, TEST_FILES
from examples.ham10000.data.layouts import IMAGE_FOLDERS, LESION_MASKS, METADATA

PART_1, PART_2 = IMAGE_FOLDERS
UNANNOUNCED, CUT, ANOTHER = "length unknown", "cut", "another file"
PAGE = b"<html>Please log in</html>"


class Server(ThreadingHTTPServer):
    """Serves ``content`` by request target, and notes who asked for what.

    ``faults`` are words above, or a status to answer with, by the target or for all.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.faults, self.requests, self.agents = {}, {}, [], []

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
        self.server.requests.append(self.path)
        self.server.agents.append(self.headers["User-Agent"])
        faults = self.server.faults.get(self.path, self.server.faults.get("all", ()))
        if isinstance(faults, int):
            self.send_error(faults)
            return
        body = PAGE if ANOTHER in faults else self.server.content[self.path]
        self.send_response(200)
        if UNANNOUNCED not in faults:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if CUT in faults else body)

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
"""What becomes of the small set, file by file."""

SMALL_SET = {METADATA: WHOLE[METADATA]} | {
    f"{name.split('/')[0]}.zip": archive({name.split("/")[1]: content})
    for name, content in WHOLE.items()
    if "/" in name
}
