using Bunraku.Machine;
using Bunraku.Sessions.Snapshots;

namespace Bunraku.Sessions;

/// <summary>What a snapshot's file says of itself.</summary>
/// <param name="Saved">When, UTC.</param>
/// <param name="Bytes">Of the file.</param>
/// <param name="Memory">Bytes of RAM.</param>
/// <param name="Cpus">Number of vCPUs.</param>
/// <param name="Engine">What ran it; another engine can go on.</param>
/// <param name="Command">What it runs; null: no command.</param>
/// <param name="OnTerminal">The command has a terminal.</param>
/// <param name="Waits">It has booted and waits for its command, which <see cref="VmOptions.Command"/> gives.</param>
public sealed record SnapshotInfo(
    DateTime Saved, long Bytes, ulong Memory, int Cpus, string Engine, IReadOnlyList<string>? Command, bool OnTerminal, bool Waits)
{
    /// <summary>Reads it; the memory's contents are not looked at.</summary>
    /// <param name="path">Of the file.</param>
    /// <exception cref="CannotStartException">It is no snapshot, or cannot go on here: one line.</exception>
    public static SnapshotInfo Read(string path)
    {
        using SnapshotFile file = SnapshotFile.Open(path);
        MachineDescription machine = file.Machine;
        bool waits = file.Manifest.Waits is not null;
        return new SnapshotInfo(file.Manifest.Saved, new FileInfo(path).Length, machine.Memory, machine.Cpus, machine.Engine, waits ? null : machine.Command,
            machine.Console == GuestConsole.CommandOnTerminal && !waits, waits);
    }
}
