"""A relay between two nodes: it counts what passes, and does something when so much has."""

import os
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
        # From then on so many bytes of each connection pass as fast as they come all the same.
        self.slow_after = 0
        # Whether nothing passes, and nobody is told.
        self.is_dark = False
        # Bytes to change in what comes from the target, and how many were changed.
        self.spoil, self.spoiled = 0, 0
        # Pieces that were held up.
        self.slowed = 0
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

    def cut(self):
        """Ends every connection that there is."""
        with self._lock:
            for connection in self._sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self._sockets.clear()

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

    @staticmethod
    def _hurry():
        """Before the engines that spin on all processors: what the relay does stands for a network, which does not
        wait for them."""
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except OSError:
            pass

    def _pass(self, source, target, is_counted):
        self._hurry()
        passed = 0
        try:
            while True:
                # Since it is to be slow: nodes keep connections.
                passed = passed if self.rate else 0
                rate = self.rate if is_counted and passed >= self.slow_after else None
                # So much that nobody is silent for long, however slow.
                if not (data := source.recv(min(64 << 10, max(512, int(rate * 0.01))) if rate else 256 << 10)):
                    break
                passed += len(data)
                if rate:
                    time.sleep(len(data) / rate)
                    self.slowed += 1
                fault = self._count(len(data)) if is_counted else None
                if fault:
                    fault()
                while self.is_dark and not self._is_closing:
                    time.sleep(0.01)
                if is_counted and self.spoil and len(data) > 20_000:
                    # Far from a frame's end: of a block's bytes.
                    self.spoil -= 1
                    self.spoiled += 1
                    data = bytearray(data)
                    data[len(data) // 2] ^= 1
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
