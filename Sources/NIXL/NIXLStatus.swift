internal import CNIXL

/// Every status the C API can give, kept apart. 1.5.1 folds most causes into `backend` before we
/// see them, so a dead peer cannot be told from another backend failure by code alone.
package enum NIXLStatus: Equatable, Sendable {
  case success
  case inProgress
  case invalidParameter
  case backend
  case invalidState
  case exception
  case noTelemetry
  case notFound
  case notLoaded
  case unlisted(Int32)

  init(_ code: Int32) {
    switch Int(code) {
    case CNIXL_SUCCESS: self = .success
    case CNIXL_IN_PROGRESS: self = .inProgress
    case CNIXL_INVALID_PARAM: self = .invalidParameter
    case CNIXL_BACKEND: self = .backend
    case CNIXL_INVALID_STATE: self = .invalidState
    case CNIXL_EXCEPTION: self = .exception
    case CNIXL_NO_TELEMETRY: self = .noTelemetry
    case CNIXL_NOT_FOUND: self = .notFound
    case CNIXL_NOT_LOADED: self = .notLoaded
    default: self = .unlisted(code)
    }
  }

  /// The status as the C API numbers it.
  package var code: Int32 {
    switch self {
    case .success: Int32(CNIXL_SUCCESS)
    case .inProgress: Int32(CNIXL_IN_PROGRESS)
    case .invalidParameter: Int32(CNIXL_INVALID_PARAM)
    case .backend: Int32(CNIXL_BACKEND)
    case .invalidState: Int32(CNIXL_INVALID_STATE)
    case .exception: Int32(CNIXL_EXCEPTION)
    case .noTelemetry: Int32(CNIXL_NO_TELEMETRY)
    case .notFound: Int32(CNIXL_NOT_FOUND)
    case .notLoaded: Int32(CNIXL_NOT_LOADED)
    case .unlisted(let code): code
    }
  }
}

/// Why a NIXL operation could not be done.
package enum NIXLError: Error, Equatable, Sendable {
  /// The library cannot be opened, or lacks a function. Install it, or name another.
  case unusable(path: String, reason: String)
  /// A call failed. `call` is the C function without its prefix.
  case call(String, NIXLStatus)
  /// Metadata that NIXL must not see: passing it on could cost the connection to a good peer.
  case metadata(MetadataFrame.Fault)
}

/// Turns any status but success into an error that names the call.
func check(_ call: String, _ code: Int32) throws(NIXLError) {
  let status = NIXLStatus(code)
  guard status == .success else { throw .call(call, status) }
}
