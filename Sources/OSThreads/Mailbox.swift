/// Values handed from any thread to one reader, in order. Neither side ever waits for the other.
public final class Mailbox<Value: Sendable>: Sendable {
  private let values = Guarded<[Value]>([])
  private let bell: (any Bell)?

  /// - Parameter bell: Rung after every post.
  public init(ringing bell: (any Bell)? = nil) { self.bell = bell }

  public func post(_ value: Value) {
    values.withLock { $0.append(value) }
    bell?.ring()
  }

  /// Takes everything posted so far.
  public func drain() -> [Value] {
    values.withLock { values in
      if values.isEmpty { return [] }
      let taken = values
      values = []
      return taken
    }
  }
}
