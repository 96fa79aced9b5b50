using System.Globalization;
using Bunraku.Platform;
using Bunraku.Sessions.Snapshots;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions;

/// <summary>
/// A VM as it was at one moment, from which copies begin: <c>new VmBuilder(engines) { RestoreFrom = fork.Path, … }.Build()</c>, any number of times, here or
/// in other processes of this user. The copies share what they do not write to.
/// </summary>
/// <remarks>Immutable. Copies that were made live on when this is disposed of, and when the original ends.</remarks>
public sealed class VmFork : IDisposable
{
    private readonly SafeFileHandle _file;
    private readonly IReadOnlyList<DiskCopy> _disks;

    internal VmFork(SafeFileHandle file, IReadOnlyList<DiskCopy> disks) => (_file, _disks) = (file, disks);

    /// <summary>For <see cref="VmBuilder.RestoreFrom"/>, until this is disposed of or the process ends.</summary>
    /// <exception cref="ObjectDisposedException">It is.</exception>
    public string Path
    {
        get
        {
            ObjectDisposedException.ThrowIf(_file.IsClosed, this);
            return HostFile.PathOf(_file);
        }
    }

    /// <summary>How long the original stood still in all.</summary>
    public required TimeSpan StoodStill { get; init; }

    /// <summary>How long it stood still at a time, at most.</summary>
    public required TimeSpan LongestStop { get; init; }

    /// <summary>Bytes that all copies share.</summary>
    public required long Bytes { get; init; }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"stood still for {StoodStill.TotalMilliseconds:0.0} ms, at most {LongestStop.TotalMilliseconds:0.0} ms at a time; "
            + $"{ByteSize.Format((ulong)Bytes)} shared");

    /// <summary>No more copies can begin.</summary>
    public void Dispose()
    {
        _file.Dispose();
        foreach (DiskCopy disk in _disks) disk.Dispose();
    }
}

/// <summary>A VM cannot be forked, or was not; it goes on. The message is one line.</summary>
/// <param name="message">One line.</param>
/// <param name="inner">What caused it.</param>
public sealed class ForkException(string message, Exception? inner = null) : SessionException(message, inner);
