"""A relay between two nodes: it counts what passes, and does something when so much has."""

import socket
import threading
import time


class Relay:
    """Passes connections on to a port of this machine, one thread each way."""

    def __init__(self, port, target):
        self.target = target
        self._lock = threading.Lock()
        self._passed = 0
        self._fault = None
        self._is_closing = False
        # Bytes a second from the target; nothing: as fast as they come.
        self.rate = None
        self._sockets = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, after, fault):
        """Once `after` more bytes have come from the target, `fault` is called, and passing goes on."""
        with self._lock:
            self._passed, self._fault = 0, (after, fault)

    def disarm(self):
        """Whether the fault has happened."""
        with self._lock:
            happened, self._fault = self._fault is None, None
            return happened

    @property
    def passed(self):
        return self._passed

    def close(self):
        self._is_closing = True
        self._listener.close()
        with self._lock:
            for connection in self._sockets:
                connection.close()

    def _accept(self):
        while not self._is_closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets |= {near, far}
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source, target, is_counted):
        try:
            while data := source.recv(64 << 10 if self.rate and is_counted else 256 << 10):
                if self.rate and is_counted:
                    time.sleep(len(data) / self.rate)
                fault = self._count(len(data)) if is_counted else None
                if fault:
                    fault()
                target.sendall(data)
        except OSError:
            pass
        # What one side has closed is closed for the other.
        for connection in (source, target):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _count(self, count):
        with self._lock:
            self._passed += count
            if self._fault and self._passed >= self._fault[0]:
                fault = self._fault[1]
                self._fault = None
                return fault
        return None
