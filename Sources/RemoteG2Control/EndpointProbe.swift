internal import Glibc

/// Asks the kernel whether anything still listens at an address.
///
/// A store listens for as long as it lives, and a stopped process still listens. So a refusal is a sign
/// that nobody is there, which no silence is; one alone may be a proxy's or a firewall's.
package enum EndpointProbe {
  package enum Finding: Equatable, Sendable { case listening, refused, unknown }

  package static func look(at address: StoreAddress) -> Finding {
    var socketAddress = sockaddr_in()
    socketAddress.sin_family = sa_family_t(AF_INET)
    socketAddress.sin_port = in_port_t(truncatingIfNeeded: address.port).bigEndian
    guard inet_pton(AF_INET, address.host, &socketAddress.sin_addr) == 1 else { return .unknown }
    return withUnsafePointer(to: &socketAddress) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(AF_INET, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }

  /// Never waits: an attempt that is under way is no refusal.
  private static func connect(
    _ family: Int32, _ address: UnsafePointer<sockaddr>, _ length: socklen_t
  ) -> Finding {
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(family, type | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return .unknown }
    defer { close(descriptor) }
    if Glibc.connect(descriptor, address, length) == 0 { return .listening }
    switch errno {
    case ECONNREFUSED, ENOENT: return .refused
    case EAGAIN, EINPROGRESS: break
    default: return .unknown
    }
    // On loopback the kernel has decided already; elsewhere a moment is given for the reset.
    var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
    guard poll(&entry, 1, 20) == 1 else { return .unknown }
    var error: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size)
    return error == 0 ? .listening : error == ECONNREFUSED ? .refused : .unknown
  }
}
