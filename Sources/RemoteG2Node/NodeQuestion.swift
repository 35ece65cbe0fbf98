internal import Foundation
internal import LocalStore
internal import OSThreads
package import RemoteG2Core

/// Asks a node of this host what it has to say of itself.
package enum NodeQuestion {
  package enum Failure: Error, Equatable, Sendable, CustomStringConvertible {
    case noNode(path: String)
    case silent(path: String)
    case senseless(path: String)

    package var description: String {
      switch self {
      case .noNode(let path): "no node listens at \(path): start one with `remote-g2 node`"
      case .silent(let path): "the node at \(path) does not answer"
      case .senseless(let path): "what listens at \(path) answers what no node of this version does"
      }
    }
  }

  package static let answerMax: Duration = .seconds(2)

  /// Blocks its thread for at most two seconds.
  package static func report(
    of path: String, within limit: Duration = NodeQuestion.answerMax
  ) throws(Failure) -> NodeReport {
    guard case .success(let socket) = LocalSocket.connect(path), socket.send(.report(1)) else {
      throw .noNode(path: path)
    }
    let bell = EventBell()
    let deadline = MonotonicClock.now() + limit
    var text = ""
    while true {
      switch socket.receive() {
      case .nothing:
        guard MonotonicClock.now() < deadline else { throw .silent(path: path) }
        _ = bell.wait(until: deadline, hearing: [socket.descriptor])
      case .message(.reported(1, let page, let isLast), _):
        text += page
        guard isLast else { continue }
        guard let report = try? JSONDecoder().decode(NodeReport.self, from: Data(text.utf8)) else {
          throw .senseless(path: path)
        }
        return report
      case .closed: throw .silent(path: path)
      case .message, .malformed: throw .senseless(path: path)
      }
    }
  }
}
