using System.Globalization;
using System.Text;
using Bunraku.Platform;

namespace Bunraku.Sessions;

/// <summary>
/// A map of emitted code as Linux's perf reads it: /tmp/perf-PID.map, lines of address, length (both hexadecimal) and name. One for the process, for all its
/// VMs. Any thread.
/// </summary>
/// <remarks>
/// perf reads the map when it reports, and the map has no times. So it says what lies there at the end; where code was given up and other code was put in its
/// place, names end with <see cref="Reused"/>: samples of what was there before count for it. tools/perf/Documentation/jit-interface.txt of Linux.
/// </remarks>
public sealed class PerfMap : IHostCodeObserver, IDisposable
{
    /// <summary>What names end with where other code was before.</summary>
    public const string Reused = ":reused";

    private const int Buffered = 64 << 10;

    private readonly record struct Entry(ulong Length, string Name);

    private readonly Lock _lock = new();
    private readonly string _option;
    private readonly SortedList<ulong, ulong> _used = []; // first bytes and ends of ranges that code is gone from; they do not touch
    private readonly Dictionary<ulong, Entry> _entries = []; // by address
    private readonly StringBuilder _fresh = new(); // lines that the file does not have yet
    private readonly FileStream? _runtimes; // the map that .NET itself writes, with DOTNET_PerfMapEnabled
    private bool _stale; // the file has lines of code that is gone
    private bool _disposed;

    /// <summary>Makes the file, empty, so that a place that cannot be written is told at once.</summary>
    /// <param name="option">How a message names what asked for it.</param>
    /// <exception cref="CannotStartException">The file cannot be made.</exception>
    public PerfMap(string option = nameof(VmBuilder.HostCode))
    {
        _option = option;
        try
        {
            if (Environment.GetEnvironmentVariable("DOTNET_PerfMapEnabled") is { Length: > 0 } word && word != "0" && File.Exists(Path))
                _runtimes = new FileStream(Path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            Replace();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _runtimes?.Dispose();
            throw new CannotStartException($"{option}: cannot write {Path}: {HostError.Reason(e)}", e);
        }
    }

    /// <summary>Where perf looks for it, whatever TMPDIR says.</summary>
    public static string Path { get; } = string.Create(CultureInfo.InvariantCulture, $"/tmp/perf-{Environment.ProcessId}.map");

    /// <summary>Why the map is not complete: a full disk, for example. Null: nothing is missing.</summary>
    public CannotWriteException? Error { get; private set; }

    /// <inheritdoc/>
    public void CodeAdded(ulong address, ulong length, string name)
    {
        lock (_lock)
        {
            if (_disposed || Error != null) return;
            bool renamed = _entries.ContainsKey(address);
            _stale |= renamed;
            if (renamed || WasUsed(address, length)) name += Reused;
            _entries[address] = new Entry(length, name);
            AppendLine(_fresh, address, length, name);
            // What is stale is written as a whole, so not for every few lines.
            if (_fresh.Length >= Buffered && (!_stale || _fresh.Length / 16 >= _entries.Count)) Guarded(Flush);
        }
    }

    /// <inheritdoc/>
    public void CodeGone(ulong address, ulong length)
    {
        lock (_lock)
        {
            if (_disposed || Error != null) return;
            ulong end = address;
            foreach (ulong gone in _entries.Keys.Where(a => a >= address && a - address < length).ToArray())
            {
                end = Math.Max(end, gone + _entries[gone].Length);
                _entries.Remove(gone);
            }
            if (end == address) return;
            _stale = true;
            NoteUsed(address, end);
        }
    }

    private bool WasUsed(ulong address, ulong length)
    {
        foreach ((ulong start, ulong end) in _used)
        {
            if (start >= address + length) return false;
            if (end > address) return true;
        }
        return false;
    }

    private void NoteUsed(ulong start, ulong end)
    {
        foreach ((ulong from, ulong to) in _used.Where(u => u.Key <= end && u.Value >= start).ToArray())
        {
            (start, end) = (Math.Min(start, from), Math.Max(end, to));
            _used.Remove(from);
        }
        _used.Add(start, end);
    }

    private static void AppendLine(StringBuilder text, ulong address, ulong length, string name) =>
        text.Append(CultureInfo.InvariantCulture, $"{address:x} {length:x} {name}\n");

    private void Flush()
    {
        if (_stale) Replace();
        else File.AppendAllText(Path, _fresh.ToString());
        _fresh.Clear();
    }

    /// <summary>
    /// Writes the file anew. Anybody may write to /tmp: so another file takes its place, and no link that lies there is followed.
    /// </summary>
    private void Replace()
    {
        string fresh = System.IO.Path.GetRandomFileName(), path = $"{Path}.{fresh}";
        try
        {
            using (var file = new FileStream(path, FileMode.CreateNew, FileAccess.Write))
            {
                if (_runtimes != null)
                {
                    _runtimes.Position = 0;
                    _runtimes.CopyTo(file);
                }
                using var writer = new StreamWriter(file);
                var line = new StringBuilder();
                foreach ((ulong address, Entry entry) in _entries)
                {
                    AppendLine(line.Clear(), address, entry.Length, entry.Name);
                    writer.Write(line);
                }
            }
            File.Move(path, Path, overwrite: true);
        }
        catch
        {
            File.Delete(path);
            throw;
        }
        _stale = false;
    }

    private void Guarded(Action write)
    {
        try
        {
            write();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            Error = new CannotWriteException(Path, $"{HostError.Reason(e)} ({_option})", e);
        }
    }

    /// <summary>Writes what is not written yet; <see cref="Error"/> says whether that went well. The file stays, for perf.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed) return;
            if (Error == null) Guarded(Replace); // .NET's own map may have grown, too
            _disposed = true;
            _runtimes?.Dispose();
        }
    }
}
