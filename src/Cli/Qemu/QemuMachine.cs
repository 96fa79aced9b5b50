using System.Net;
using Bunraku.Machine.Board;
using Bunraku.Sessions.Debugging;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.Qemu;

/// <summary>What a character device is connected with.</summary>
internal enum CharacterKind { Null, Stdio, File, Pipe, Unix, Tcp, Pty }

/// <summary>A character device of a command line: a stream of bytes in both directions, whose other end is outside.</summary>
/// <param name="Id">By which others name it.</param>
/// <param name="Kind">What it is connected with.</param>
internal sealed record CharacterSpec(string Id, CharacterKind Kind)
{
    /// <summary>Of a file, pipe or socket.</summary>
    public string? Path { get; init; }
    /// <summary>Of a file that is read; null: nothing is.</summary>
    public string? InputPath { get; init; }
    /// <summary>What is in the file stays.</summary>
    public bool Append { get; init; }
    public IPEndPoint? Address { get; init; }
    /// <summary>It listens; else it connects.</summary>
    public bool IsServer { get; init; }
    /// <summary>The machine waits until somebody has connected.</summary>
    public bool Waits { get; init; }
    /// <summary>After so many seconds a client connects again; 0: it does not.</summary>
    public int Reconnect { get; init; }
    /// <summary>Several share it, and Ctrl-A C goes from one to the next.</summary>
    public bool IsShared { get; init; }
    /// <summary>Ctrl-C on the terminal ends the machine; else the guest has it.</summary>
    public bool HasSignals { get; init; } = true;
    /// <summary>Where all that the guest sends is written as well.</summary>
    public string? LogFile { get; init; }
    public bool LogAppend { get; init; }
}

/// <summary>A monitor: for people, or QEMU's machine protocol.</summary>
/// <param name="Character">Where it is.</param>
internal sealed record MonitorSpec(string Character, bool IsProtocol, bool IsPretty = false);

/// <summary>A port of a virtio console device.</summary>
/// <param name="Number">Null: the next that is free.</param>
internal sealed record VirtioPortSpec(string Name, bool IsConsole, string Character, int? Number);

/// <summary>A virtio console device with its ports.</summary>
internal sealed record VirtioSerialSpec(string Id)
{
    public List<VirtioPortSpec> Ports { get; } = [];
}

/// <summary>By what a monitor knows a disk or disc.</summary>
/// <param name="Drive">Of -drive and its like, which always have one; empty for a node.</param>
/// <param name="Node">Of -blockdev, or as the drive names its own; null: it has none.</param>
internal sealed record DriveName(string Drive, string? Node);

/// <summary>What a command line of QEMU's describes. It is filled word by word, and then run.</summary>
internal sealed class QemuMachine
{
    /// <summary>The RAM of QEMU's machines where nothing is said.</summary>
    public const ulong DefaultMemory = 128 << 20;

    /// <summary>Serial ports that the board can have.</summary>
    public const int MostSerialPorts = 2;

    public string? Name { get; set; }
    public string Engine { get; set; } = VmOptions.AutomaticEngine;
    public string? Cpu { get; set; }
    public bool Paravirtual { get; set; } = true;
    public ulong TscFrequency { get; set; }
    public BoardKind Board { get; set; }
    public ulong Memory { get; set; } = DefaultMemory;
    public int Cpus { get; set; } = 1;
    public string? Kernel { get; set; }
    public string? Initrd { get; set; }
    public string? Append { get; set; }
    public string? Bios { get; set; }
    public string? EfiVars { get; set; }
    public DisplayKind Display { get; set; }
    public VncEndpoint? Vnc { get; set; }

    /// <summary>Names of <see cref="Disks"/>, and of <see cref="CompactDiscs"/> behind them, in their order.</summary>
    public List<DriveName> DriveNames { get; } = [];

    /// <summary>Names of the back ends of <see cref="Networks"/>, and of their cards.</summary>
    public List<(string Backend, string? Card)> NetworkNames { get; } = [];

    /// <summary>What its viewers must know from the beginning; null: what a monitor says.</summary>
    public string? VncPassword { get; set; }
    public bool Tablet { get; set; }
    public IReadOnlyList<BootDevice> BootOrder { get; set; } = [];
    public List<VmDisk> Disks { get; } = [];
    public List<string> CompactDiscs { get; } = [];
    public List<VmNetwork> Networks { get; } = [];
    /// <summary>The card that a machine has of which nothing is said: it is left out where the host has no library for it.</summary>
    public bool HasDefaultNetwork { get; set; }
    public List<VmShare> Shares { get; } = [];
    public bool Rng { get; set; }
    public VmBalloon? Balloon { get; set; }
    public VmVsock? Vsock { get; set; }
    public List<(ushort Port, int Size)> DebugExits { get; } = [];
    public List<(ushort Port, string Character)> DebugConsoles { get; } = [];
    public ushort? PanicPort { get; set; }
    public List<VirtioSerialSpec> VirtioSerials { get; } = [];
    public Dictionary<string, CharacterSpec> Characters { get; } = new(StringComparer.Ordinal);
    /// <summary>Of the serial ports in their order; null: nobody is at its other end.</summary>
    public List<string?> Serials { get; } = [];
    public List<MonitorSpec> Monitors { get; } = [];
    public List<(string Name, byte[] Data)> FirmwareItems { get; } = [];
    public MachineIdentity Identity { get; set; } = new();
    public DateTime? StartTime { get; set; }
    public bool NoReboot { get; set; }
    public bool NoShutdown { get; set; }
    public bool Stopped { get; set; }
    public DebugEndpoint? Debugger { get; set; }
    public string? PidFile { get; set; }
    public bool Daemonize { get; set; }
    public byte EscapeKey { get; set; } = 1;
    /// <summary>What is to be said before the machine runs: a line for each word that means nothing here.</summary>
    public List<string> Notes { get; } = [];
}
