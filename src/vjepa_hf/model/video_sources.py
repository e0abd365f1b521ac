"""The one place where videos are opened: local files, addresses, bytes and file objects.

FFmpeg never gets a name, only a stream of bytes, a list of containers and no protocol. So the content of a file cannot
make it open another file or a port, and the name of a file has no meaning for it.
"""

import io
import os
import re
import stat
import threading
import time
import urllib.request
from base64 import b64encode
from http.client import IncompleteRead
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from .names import printable

Source = str | os.PathLike | bytes | BinaryIO

MAX_PIXELS = 2**26  # of a frame: 8192 x 8192, which admits 8K video
MAX_DOWNLOAD_BYTES = 2**30
MAX_DOWNLOAD_SECONDS = 600  # of a whole download
URL_TIMEOUT_SECONDS = 60  # of waiting for a server
SCHEME = r"[a-zA-Z][a-zA-Z0-9+.-]*"
HEAD_BYTES = 2**20  # that show whether a file object can go back
READ_BYTES = 2**16

# FFmpeg's names of the containers that are read. Playlists, session descriptions and numbered images, which name other
# files or ports, are not among them.
CONTAINERS = "asf,avi,dhav,dv,flic,flv,ivf,matroska,mov,mpeg,mpegts,mxf,nsv,nut,nuv,ogg,pva,rm,smjpeg,ty,wtv"
RAW_STREAMS = (
    "apv,av1,avs2,avs3,cavsvideo,dirac,dnxhd,evc,h261,h263,h264,hevc,m4v,mjpeg,mjpeg_2000,mpegvideo,obu,vc1,vc1test,"
    "vvc,yuv4mpegpipe"
)
IMAGES = (
    "apng,bmp_pipe,dpx_pipe,exr_pipe,gif,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,pam_pipe,"
    "pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,sunrast_pipe,tiff_pipe,webp_pipe"
)


class SourceFile:
    """Readable and seekable binary file, from its beginning; any error while it is read is an OSError.

    Args:
        file: binary file object that can seek.
        is_own: close `file` in `close`.
    """

    name = ""  # FFmpeg would infer a container and a pattern from a name

    def __init__(self, file: Any, is_own: bool):
        self._file, self._is_own = file, is_own

    def read(self, size: int) -> bytes:
        data = self._call(self._file.read, size)
        if not isinstance(data, bytes):
            raise OSError(f"read() returned {type(data).__name__}, not bytes; open the file with mode 'rb'")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._call(self._file.seek, offset, whence)  # SpooledTemporaryFile of Python 3.10 returns None
        return self.tell()

    def tell(self) -> int:
        position: int = self._call(self._file.tell)
        return position

    def close(self) -> None:
        if self._is_own:
            self._file.close()

    @staticmethod
    def _call(function: Any, *arguments: int) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def open_source(source: Any) -> SourceFile:
    """Open a local path, an address, bytes or a binary file object; addresses are downloaded.

    Raises:
        Exception: any error of the file system, the network or the file object.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        scheme = scheme_of(source)
        if scheme in ("http", "https"):
            return SourceFile(io.BytesIO(_download(source)), is_own=True)
        if scheme == "file":
            return _open_path(_path_of(source))
        if scheme:
            raise ValueError("only http://, https:// or file:// addresses are supported; download it first")
        return _open_path(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return SourceFile(io.BytesIO(source), is_own=True)
    # An upload of Starlette has an asynchronous `read`, but its `file` is a file object.
    inner = getattr(source, "file", None)
    file = inner if hasattr(inner, "read") else source
    if not hasattr(file, "read"):
        raise ValueError(f"{type(source).__name__} is not a path, an address, bytes or a binary file object")
    return _open_file_object(file)


def open_container(file: SourceFile, max_pixels: int) -> Any:
    """Open a source with FFmpeg, from its beginning.

    Args:
        file: file of `open_source`.
        max_pixels: maximum number of pixels of a frame. FFmpeg checks it before it allocates a frame.

    Raises:
        ValueError: the container is not supported.
        FFmpegError: FFmpeg cannot read the file.
    """
    import av

    file.seek(0)
    try:
        return av.open(
            file,
            mode="r",
            metadata_errors="replace",
            buffer_size=READ_BYTES,
            options={"max_pixels": str(max_pixels)},
            container_options={
                "format_whitelist": ",".join((CONTAINERS, RAW_STREAMS, IMAGES)),
                "protocol_whitelist": "",
            },
        )
    except av.error.ArgumentError as error:
        raise ValueError("no video stream, or a container that is not supported") from error


def source_name(source: Source) -> str:
    """Return a printable name: path, address without user, password and query, size of bytes, or type of an object."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if not scheme_of(name):
            return printable(name)
        address, *query = re.split(r"[?#]", name, maxsplit=1)
        return printable(without_secrets(address)) + ("?..." if query else "")
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else f"<{type(source).__name__}>"


def without_secrets(text: str, address: str = "") -> str:
    """Return a text without the users, passwords and queries of the addresses in it, and of `address`."""
    for login, query in re.findall(r"//([^\s/?#]+)@|[?#](.+)", address, re.DOTALL):
        for secret in filter(None, (login, login.partition(":")[2], query)):
            text = text.replace(secret, "...")
    # In a chained address such as tar://a.mp4::https://host/b.tar?key, `::` begins the next one.
    inside = rf"(?:(?!::{SCHEME}://)[^\s?#])*"
    end = rf"[?#](?:(?!::{SCHEME}://)\S)*"
    text = re.sub(rf"\b({SCHEME}://)[^\s/?#]*@", r"\1", text)
    return re.sub(rf"\b({SCHEME}://{inside}){end}", r"\1?...", text)


def scheme_of(source: str) -> str:
    """Return the scheme of an address such as `s3://...` or `simplecache::s3://...`, in lower case; "" for a path."""
    found = re.match(rf"({SCHEME})(?:::{SCHEME})*://", source)
    return found[1].lower() if found else ""


# --- local files and file objects ------------------------------------------------------------------------------------


def _open_path(path: str) -> SourceFile:
    # A pipe or a device could block forever, already when it is opened. Opening a folder is an error anyway.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is a pipe or a device, not a regular file")
    return SourceFile(io.FileIO(path), is_own=True)


def _path_of(address: str) -> str:
    """Return the path of a file:// address."""
    path = address[len("file://") :]
    path = path[len("localhost") :] if path.startswith("localhost/") else path
    return urllib.request.url2pathname(path) if os.name == "nt" else unquote(path)


def _open_file_object(file: Any) -> SourceFile:
    """Read a file object from its beginning; into memory if it is small or cannot go back."""
    head = file.read(HEAD_BYTES) if _rewinds(file) else b""
    if len(head) == HEAD_BYTES:
        # A member of a tar stream can be seekable, and then fail when it is read.
        if _rewinds(file, 1):
            return SourceFile(file, is_own=False)
        file.seek(len(head))
    return SourceFile(io.BytesIO(head + file.read()), is_own=True)


def _rewinds(file: Any, num_bytes: int = 0) -> bool:
    """Go back to the beginning of a file object and read; return whether this was possible."""
    try:
        if hasattr(file, "seekable") and not file.seekable():  # SpooledTemporaryFile of Python 3.10 has no `seekable`
            return False
        file.seek(0)
        return len(file.read(num_bytes)) == num_bytes
    except Exception:  # noqa: BLE001  the errors of file objects have no common type
        return False


# --- downloads -------------------------------------------------------------------------------------------------------


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects that keep the scheme or go to https."""

    def redirect_request(self, request: Any, response: Any, code: int, message: str, headers: Any, url: str) -> Any:
        scheme = urlsplit(url).scheme
        if scheme not in (request.type, "https"):
            raise ValueError(f"the server redirects from {request.type} to {scheme}, which is not followed")
        return super().redirect_request(request, response, code, message, headers, url)


def _download(address: str) -> bytes:
    """Download an address within `MAX_DOWNLOAD_BYTES` and `MAX_DOWNLOAD_SECONDS`.

    Raises:
        Exception: any error of the network, or a limit is exceeded.
    """
    result: list[bytes | Exception] = []

    def fetch() -> None:
        try:
            result.append(_fetch(_request(address), time.monotonic() + MAX_DOWNLOAD_SECONDS))
        except Exception as error:  # noqa: BLE001  raised below
            result.append(error)

    # In a thread, because a server may also be slow with its name, its certificate and its headers.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(MAX_DOWNLOAD_SECONDS)
    if not result:
        raise TimeoutError(f"the download takes more than {MAX_DOWNLOAD_SECONDS} s; download it first")
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def _request(address: str) -> urllib.request.Request:
    """Return the request of an address as people write it: spaces, any letters, user and password."""
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # its message may contain a password
        raise ValueError("the address is malformed; it must be scheme://host:port/path") from None
    host = f"[{host}]" if ":" in host else host
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    # Percent signs stay where they already encode a character.
    path = quote(re.sub(r"%(?![0-9a-fA-F]{2})", "%25", path), safe="!$%&'()*+,/:;=?@[]~")
    request = urllib.request.Request(f"{parts.scheme}://{host}" + (f":{port}" if port else "") + (path or "/"))
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    return request


def _fetch(request: urllib.request.Request, deadline: float) -> bytes:
    opener, data = urllib.request.build_opener(_SafeRedirects), bytearray()
    with opener.open(request, timeout=min(URL_TIMEOUT_SECONDS, MAX_DOWNLOAD_SECONDS)) as response:
        num_bytes = response.length  # that are left; None if the server does not say
        while (num_bytes or 0) + len(data) <= MAX_DOWNLOAD_BYTES and time.monotonic() < deadline:
            if not (piece := response.read1(READ_BYTES)):
                if response.length:
                    raise IncompleteRead(b"", response.length)
                return bytes(data)
            data += piece
            num_bytes = response.length
    limits = f"{MAX_DOWNLOAD_BYTES} bytes or {MAX_DOWNLOAD_SECONDS} s"
    raise ValueError(f"the download exceeds {limits}; download it first")
