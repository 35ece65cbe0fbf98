internal import CLinuxShims
internal import Glibc
internal import OSThreads
internal import RemoteG2Core

/// Asks name services again and again where members are. Nobody waits for it: a name service that does not answer
/// holds up this thread alone, also when the node ends.
final class LookupThread: Sendable {
  private let isOver = Guarded(false)
  private let bell = EventBell()

  init(_ board: NodeBoard, _ lookup: MemberLookup, log: @escaping @Sendable (String) -> Void) {
    let pause = board.withCore { $0.limits.lookUpEvery }
    let thread = OSThread.start("lookup") { [isOver, bell] in
      var lookup = lookup
      while !isOver.withLock({ $0 }) {
        lookup.ask(addresses: Self.addresses, records: Self.services)
        let complaints =
          board.found(lookup.told, by: .told) + board.found(lookup.ofServices, by: .service)
        for line in complaints { log(line) }
        _ = bell.wait(until: MonotonicClock.now() + pause, hearing: [])
      }
    }
    thread.detach()
  }

  func stop() {
    isOver.withLock { $0 = true }
    bell.ring()
  }

  /// Numeric, in the order in which the system would try them.
  private static func addresses(of host: String) -> [String]? {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    let status = getaddrinfo(host, nil, &hints, &found)
    defer { if let found { freeaddrinfo(found) } }
    guard status == 0 else {
      return status == EAI_NONAME || status == Self.noAddress ? [] : nil
    }
    var hosts: [String] = []
    var entry = found
    while let this = entry {
      var text = [CChar](repeating: 0, count: 64)
      if getnameinfo(
        this.pointee.ai_addr, this.pointee.ai_addrlen, &text, socklen_t(text.count), nil, 0,
        NI_NUMERICHOST) == 0
      {
        let host = text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        if !hosts.contains(host) { hosts.append(host) }
      }
      entry = this.pointee.ai_next
    }
    return hosts
  }

  /// EAI_NODATA, which the headers keep to themselves.
  private static let noAddress: Int32 = -5

  private static func services(_ name: String) -> [ServiceRecord]? {
    var answer = [UInt8](repeating: 0, count: 64 << 10)
    let length = Int(clinux_dns_services(name, &answer, Int32(answer.count)))
    guard length >= 0 else { return nil }
    return length == 0 ? [] : try? DNSAnswer.services(Array(answer[..<length]))
  }
}
