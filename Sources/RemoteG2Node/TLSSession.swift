internal import CTLS
internal import Glibc
internal import RemoteG2Core

/// One end of an encrypted connection, over a socket that stays its owner's. One thread uses it.
final class TLSSession {
  private let pointer: OpaquePointer
  /// For as long as it is used.
  private let credentials: TLSCredentials
  private var knownNames: [String]?

  enum Side {
    case listens
    /// Whose certificate the listener must show; nil: any member's.
    case connects(to: PeerName?)
  }

  init?(_ credentials: TLSCredentials, over descriptor: Int32, _ side: Side) {
    let made =
      switch side {
      case .listens: ctls_session_make(credentials.pointer, descriptor, 0, nil)
      case .connects(let name): ctls_session_make(credentials.pointer, descriptor, 1, name?.text)
      }
    guard let made else { return nil }
    pointer = made
    self.credentials = credentials
  }

  deinit { ctls_session_free(pointer) }

  /// As ``StreamSocket``'s: a count, 0 at the end, or an error's number below 0.
  func receive(into memory: UnsafeMutableRawPointer, atMost count: Int) -> Int {
    ctls_receive(pointer, memory, count)
  }

  func send(_ parts: UnsafeBufferPointer<iovec>) -> Int {
    ctls_send(pointer, parts.baseAddress, Int32(parts.count))
  }

  /// Of what it has taken, whether some is still to be sent.
  var hasUnsent: Bool { ctls_has_unsent(pointer) != 0 }

  /// - Returns: False when the connection is broken.
  func flush() -> Bool { ctls_flush(pointer) >= 0 }

  /// Who the other end has proved to be; nil: it has not yet.
  var peerNames: [String]? {
    if let knownNames { return knownNames }
    guard state.outcome == ctls_established else { return nil }
    knownNames = (0..<ctls_peer_name_count(pointer)).map {
      String(cString: ctls_peer_name(pointer, $0))
    }
    return knownNames
  }

  private var state: ctls_state {
    var state = ctls_state()
    ctls_session_state(pointer, &state)
    return state
  }

  /// Why there is no connection, once it is known.
  var refusal: HandshakeRefusal? {
    let state = state
    let reason = Self.text(state.reason)
    return switch state.outcome {
    case ctls_not_believed:
      .notBelieved(Self.doubt(state.code, reason), name: Self.text(state.name))
    case ctls_refused: .refused(reason)
    case ctls_senseless: .senseless(reason)
    case ctls_ended: .ended
    default: nil
    }
  }

  /// - Parameter code: OpenSSL's X509_V_ERR_…; 0: there is no certificate.
  private static func doubt(_ code: Int32, _ reason: String) -> HandshakeRefusal.Doubt {
    switch code {
    case 0: .missing
    case 9: .notYetValid
    case 10: .expired
    case 2, 18, 19, 20, 21, 27: .unknownAuthority
    case 23: .revoked
    case 62: .wrongName
    default: .other(reason)
    }
  }

  private static func text<Chars>(_ characters: Chars) -> String {
    withUnsafeBytes(of: characters) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }
}
