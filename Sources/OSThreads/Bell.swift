/// What a mailbox rings. A ring before the wait is not lost; many rings wake once.
public protocol Bell: Sendable {
  func ring()
}

extension Doorbell: Bell {}
