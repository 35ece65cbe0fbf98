internal import Glibc

/// Small files of the kernel's.
package enum ProcFile {
  package static func text(_ path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    while let chunk = readSome(descriptor), !chunk.isEmpty { bytes += chunk }
    return String(decoding: bytes, as: UTF8.self)
  }

  package static func names(in directory: String) -> [String] {
    guard let handle = opendir(directory) else { return [] }
    defer { closedir(handle) }
    var names: [String] = []
    while let entry = readdir(handle) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }
}

extension ProcFile {
  /// Processes that `parent` started and that have not ended.
  package static func children(of parent: Int32) -> [Int32] {
    names(in: "/proc").compactMap { Int32($0) }.filter { pid in
      guard let stat = text("/proc/\(pid)/stat"), let end = stat.lastIndex(of: ")") else {
        return false
      }
      let fields = stat[stat.index(after: end)...].split(separator: " ")
      return fields.count > 1 && fields[0] != "Z" && Int32(fields[1]) == parent
    }
  }
}

extension String {
  /// Where a symbolic link points, or the path itself.
  package var resolved: String {
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink(self, &buffer, buffer.count - 1)
    guard count > 0 else { return self }
    return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
