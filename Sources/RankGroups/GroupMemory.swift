internal import CLinuxShims
internal import Glibc
internal import Processes

/// The folder of shared memory that the ranks of one group talk through.
///
/// It is named after their mpirun, so that whoever starts a group next can take away what a killed one
/// left behind.
package enum GroupMemory {
  /// Of Open MPI: where its shared-memory transport puts its segments.
  static let parameter = "btl_vader_backing_directory"
  package static let root = "/dev/shm"

  /// Processes are numbered within their namespace, and namespaces may share the memory.
  package static var prefix: String {
    let namespace = "/proc/self/ns/pid".resolved.filter(\.isNumber)
    return "remote-g2-group-\(namespace)-"
  }

  /// Makes the folder of this process, which is about to become mpirun. Nil: Open MPI has to do with
  /// its own place.
  static func make() -> String? {
    let folder = "\(root)/\(prefix)\(getpid())"
    return mkdir(folder, 0o700) == 0 ? folder : nil
  }

  /// Takes away this user's folders of groups whose mpirun is no more, and of this process.
  ///
  /// - Parameter root: Where they are; anybody may put anything there.
  package static func sweep(_ root: String = root) {
    for name in ProcFile.names(in: root) where name.hasPrefix(prefix) {
      guard let owner = Int32(name.dropFirst(prefix.count)) else { continue }
      guard owner == getpid() || (kill(owner, 0) != 0 && errno == ESRCH) else { continue }
      _ = clinux_remove_folder(root, name)
    }
  }

  /// A rank has left its group: whichever is the last to do so takes the folder with it.
  package static func leave() {
    guard let folder = getenv("OMPI_MCA_\(parameter)").map({ String(cString: $0) }),
      folder.hasPrefix("\(root)/\(prefix)")
    else { return }
    // Where it is not empty, other ranks are still leaving.
    rmdir(folder)
  }
}
