/// Why two nodes do not believe each other's certificates, as one of them sees it.
package enum HandshakeRefusal: Equatable, Sendable, CustomStringConvertible {
  /// The other's certificate is not believed.
  case notBelieved(Doubt, name: String)
  /// The other does not believe ours; its own words.
  case refused(String)
  /// What the other says is no TLS of a version that is spoken here.
  case senseless(String)
  /// It ended the connection before either was believed.
  case ended

  package enum Doubt: Equatable, Sendable {
    case missing
    case expired
    case notYetValid
    /// Nobody whom this node believes has signed it.
    case unknownAuthority
    case revoked
    case wrongName
    case other(String)
  }

  /// For counting: one of a few.
  package enum Kind: String, CaseIterable, Sendable {
    case noCertificate = "no_certificate"
    case expired
    case notYetValid = "not_yet_valid"
    case unknownAuthority = "unknown_authority"
    case revoked
    case wrongName = "wrong_name"
    case badCertificate = "bad_certificate"
    case refusedByPeer = "refused_by_peer"
    case noTLS = "no_tls"
  }

  package var kind: Kind {
    switch self {
    case .notBelieved(.missing, _): .noCertificate
    case .notBelieved(.expired, _): .expired
    case .notBelieved(.notYetValid, _): .notYetValid
    case .notBelieved(.unknownAuthority, _): .unknownAuthority
    case .notBelieved(.revoked, _): .revoked
    case .notBelieved(.wrongName, _): .wrongName
    case .notBelieved(.other, _): .badCertificate
    case .refused: .refusedByPeer
    case .senseless, .ended: .noTLS
    }
  }

  package var description: String {
    switch self {
    case .notBelieved(.missing, _):
      "it shows no certificate: start it with --tls-certificate, --tls-key and --tls-authority"
    case .notBelieved(let doubt, let name): "its certificate\(Self.quoted(name)) \(doubt.clause)"
    case .refused(let words): "it refuses this node's certificate: \(words)"
    case .senseless(let words):
      "it speaks no TLS 1.3 (\(words)): start all nodes with --tls-certificate, or none"
    case .ended:
      "it ended the connection before any certificate was shown: start all nodes with "
        + "--tls-certificate, or none"
    }
  }

  /// Who has some member's certificate speaks for that member alone.
  ///
  /// - Parameter names: Of the certificate; nil where none is shown.
  /// - Returns: What is wrong; nil: nothing.
  package static func imposture(of name: PeerName, names: [String]?) -> String? {
    guard let names, !names.contains(name.text) else { return nil }
    return "it says that it is \(name), and its certificate is of "
      + (names.isEmpty ? "no DNS name" : names.joined(separator: ", "))
  }

  private static func quoted(_ name: String) -> String { name.isEmpty ? "" : " (\"\(name)\")" }
}

extension HandshakeRefusal.Doubt {
  fileprivate var clause: String {
    switch self {
    case .missing: "is missing"
    case .expired: "has expired: give it a new one; a running node reads its files again"
    case .notYetValid: "is not valid yet: compare the clocks of both hosts"
    case .unknownAuthority: "was signed by none of --tls-authority's: sign both by one authority"
    case .revoked: "is revoked"
    case .wrongName: "is of another name than --member has: correct one of them"
    case .other(let words): "is not acceptable: \(words)"
    }
  }
}
