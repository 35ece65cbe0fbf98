internal import CTLS
internal import Glibc
internal import OSThreads
package import RemoteG2Core

/// Where a node's certificate and what it judges others' by are. All are PEM.
package struct TLSFiles: Equatable, Sendable {
  /// With those of authorities between it and that of `authority`, if there are any.
  package var certificate: String
  package var key: String
  package var authority: String
  /// Lists of certificates that are believed no more, by authority.
  package var revoked: String?

  package init(certificate: String, key: String, authority: String, revoked: String? = nil) {
    self.certificate = certificate
    self.key = key
    self.authority = authority
    self.revoked = revoked
  }

  var all: [String] { [certificate, key, authority] + (revoked.map { [$0] } ?? []) }
}

/// Why a node cannot show who it is.
package enum TLSError: Error, Equatable, Sendable, CustomStringConvertible {
  case unreadable(String)
  case notNamed(PeerName, names: [String], file: String)

  package var description: String {
    switch self {
    case .unreadable(let reason): reason
    case .notNamed(let name, let names, let file):
      "\(file) is a certificate of \(names.isEmpty ? "no DNS name" : names.joined(separator: ", "))"
        + ", not of \(name): the name of a node must be one of its certificate's DNS names"
    }
  }
}

/// What was read of the files, for as long as some connection uses it.
final class TLSCredentials: Sendable {
  nonisolated(unsafe) let pointer: OpaquePointer
  /// The certificate's DNS names.
  let names: [String]
  /// Seconds since 1970 after which the certificate is valid no more.
  let end: Int64

  init(_ files: TLSFiles) throws(TLSError) {
    var reason = [CChar](repeating: 0, count: Int(ctls_reason_max))
    guard
      let made = ctls_credentials_read(
        files.certificate, files.key, files.authority, files.revoked, &reason, reason.count)
    else {
      throw .unreadable(reason.withUnsafeBufferPointer { String(cString: $0.baseAddress!) })
    }
    pointer = made
    names = (0..<ctls_credentials_name_count(made)).map {
      String(cString: ctls_credentials_name(made, $0))
    }
    end = ctls_credentials_end(made)
  }

  deinit { ctls_credentials_free(pointer) }
}

/// The credentials that new connections use: read again when one of their files has changed. Connections that there
/// are go on with those that they began with.
package final class TLSKeeper: Sendable {
  /// What tells that a file is another than before.
  private struct Stamp: Equatable {
    let inode: UInt64
    let size: Int64
    let seconds: Int
    let nanoseconds: Int

    init?(_ path: String) {
      var found = stat()
      guard stat(path, &found) == 0 else { return nil }
      inode = UInt64(found.st_ino)
      size = Int64(found.st_size)
      seconds = found.st_mtim.tv_sec
      nanoseconds = found.st_mtim.tv_nsec
    }
  }

  private struct State {
    var current: TLSCredentials
    var stamps: [Stamp?]
    var lookedAt: LocalInstant
    /// What was last told of files that cannot be used.
    var told = ""
  }

  private let told = Guarded<(@Sendable (Int64) -> Void)?>(nil)

  private static let lookEvery: Duration = .milliseconds(500)

  private let files: TLSFiles
  /// Nil: whoever the certificate says.
  private let name: PeerName?
  private let log: @Sendable (String) -> Void
  private let state: Guarded<State>

  package init(
    _ files: TLSFiles, name: PeerName?, log: @escaping @Sendable (String) -> Void = { _ in }
  ) throws(TLSError) {
    self.files = files
    self.name = name
    self.log = log
    let stamps = files.all.map { Stamp($0) }
    let current = try Self.read(files, name)
    state = Guarded(State(current: current, stamps: stamps, lookedAt: MonotonicClock.now()))
  }

  /// A name that the certificate has: the node's own, or its first.
  package var ownName: PeerName {
    name ?? PeerName(state.withLock { $0.current.names.first } ?? "nobody")
  }

  /// Of the certificate that is shown now.
  var end: Int64 { state.withLock { $0.current.end } }

  /// Told when that changes.
  func onChange(_ tell: @escaping @Sendable (Int64) -> Void) {
    tell(end)
    told.withLock { $0 = tell }
  }

  /// Looks at the files now and then.
  var current: TLSCredentials {
    let now = MonotonicClock.now()
    return state.withLock { state in
      guard now - state.lookedAt >= Self.lookEvery else { return state.current }
      state.lookedAt = now
      let stamps = files.all.map { Stamp($0) }
      guard stamps != state.stamps else { return state.current }
      do throws(TLSError) {
        state.current = try Self.read(files, name)
        // Only now: files of which one is new and another is not yet are read until they fit.
        state.stamps = stamps
        state.told = ""
        told.withLock { $0 }?(state.current.end)
        log("\(files.certificate) has changed: new connections use it")
      } catch {
        let what = "the certificate in use stays: \(error)"
        if what != state.told { log(what) }
        state.told = what
      }
      return state.current
    }
  }

  private static func read(
    _ files: TLSFiles, _ name: PeerName?
  ) throws(TLSError) -> TLSCredentials {
    let read = try TLSCredentials(files)
    guard let name else { return read }
    guard read.names.contains(name.text) else {
      throw .notNamed(name, names: read.names, file: files.certificate)
    }
    return read
  }
}
