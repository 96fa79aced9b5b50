using System.Buffers.Binary;
using System.Security.Cryptography;
using Bunraku.Machine.Display;
using Bunraku.Machine.Input;

namespace Bunraku.Sessions.Screens;

/// <summary>
/// One viewer: RFC 6143. What it says is read by one task, and what it is shown written by another, which paints when the viewer has asked and can take it: a
/// slow one holds up nobody else.
/// </summary>
/// <param name="stream">To the viewer; both ends of it are closed by who made it.</param>
/// <param name="password">What it must know at that moment, which nobody does while it is null; null: it is asked for nothing.</param>
/// <param name="admit">It knows the password; false: there is no place for it.</param>
internal sealed class VncSession(Stream stream, VgaController display, UserInput input, Func<byte[]?>? password, string name, Func<bool> admit) : IDisposable
{
    private const int MostText = 1 << 20;
    private const byte WheelUp = 1 << 3, WheelDown = 1 << 4;
    /// <summary>Between two looks at the screen: while it changes, and at most while it stands still.</summary>
    private static readonly TimeSpan s_shortest = TimeSpan.FromMilliseconds(25), s_longest = TimeSpan.FromMilliseconds(150);
    private static readonly TimeSpan s_handshake = TimeSpan.FromSeconds(30), s_typing = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_afterWrongPassword = TimeSpan.FromSeconds(1);

    private readonly byte[] _in = new byte[256];
    private readonly VncEncoder _encoder = new();
    private readonly HashSet<byte> _down = []; // keys, by the reader alone
    private byte _buttons;
    private ScreenImage? _painted, _shown; // by the writer alone
    private (int Width, int Height) _size; // what the viewer thinks that the screen is

    private readonly Lock _lock = new();
    private readonly SemaphoreSlim _wake = new(0);
    private VncPixelFormat _format = VncPixelFormat.Own; // with the lock held, as are the next
    private bool _usesZrle, _knowsSize, _knowsExtendedSize, _knowsKeys, _tellKeys, _tellMap, _tellSize;
    private Request? _request;

    /// <param name="IsWhole">All of the part is wanted, not what has changed.</param>
    private sealed record Request(VncRectangle Part, bool IsWhole);

    /// <summary>What the viewer's positions refer to.</summary>
    private (int Width, int Height) Size
    {
        get
        {
            lock (_lock) return _size;
        }
    }

    /// <summary>Serves the viewer until it goes, or breaks the protocol.</summary>
    /// <exception cref="VncException">It does.</exception>
    /// <exception cref="IOException">It has gone.</exception>
    public async Task RunAsync(CancellationToken cancel)
    {
        using var both = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        using (var handshake = CancellationTokenSource.CreateLinkedTokenSource(cancel))
        {
            handshake.CancelAfter(s_handshake);
            await ShakeHandsAsync(handshake.Token).ConfigureAwait(false);
        }
        Task reader = ReadAsync(both.Token), writer = WriteAsync(both.Token);
        try
        {
            Task first = await Task.WhenAny(reader, writer).ConfigureAwait(false);
            await first.ConfigureAwait(false);
        }
        finally
        {
            await both.CancelAsync().ConfigureAwait(false);
            await reader.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await writer.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            // A key that the viewer held must not stay down.
            foreach (byte key in _down) input.TryType(VncKeys.ScanCodes(key, down: false));
        }
    }

    // ---- the beginning

    private async Task ShakeHandsAsync(CancellationToken cancel)
    {
        await stream.WriteAsync(VncProtocol.Version.ToArray(), cancel).ConfigureAwait(false);
        await ReadExactAsync(VncProtocol.VersionLength, cancel).ConfigureAwait(false);
        if (!_in.AsSpan().StartsWith("RFB 003."u8) || _in[VncProtocol.VersionLength - 1] != '\n') throw new VncException("no version of the protocol");
        // Others than 3.7 and 3.8 are taken for 3.3, as the specification says.
        int minor = _in.AsSpan(8, 3).SequenceEqual("007"u8) ? 7 : _in.AsSpan(8, 3).SequenceEqual("008"u8) ? 8 : 3;
        byte security = password is null ? VncProtocol.SecurityNone : VncProtocol.SecurityPassword;
        if (minor == 3)
        {
            await stream.WriteAsync((byte[])[0, 0, 0, security], cancel).ConfigureAwait(false);
        }
        else
        {
            await stream.WriteAsync((byte[])[1, security], cancel).ConfigureAwait(false);
            await ReadExactAsync(1, cancel).ConfigureAwait(false);
            if (_in[0] != security) throw new VncException("a kind of security that was not offered");
        }
        bool passes = password is null || await ChallengeAsync(password, cancel).ConfigureAwait(false);
        if (!passes) await Task.Delay(s_afterWrongPassword, cancel).ConfigureAwait(false);
        string? refusal = !passes ? "the password is wrong" : !admit() ? "there are too many viewers" : null;
        if (password is not null || minor == 8) await stream.WriteAsync((byte[])[0, 0, 0, (byte)(refusal is null ? 0 : 1)], cancel).ConfigureAwait(false);
        if (refusal is not null)
        {
            if (minor == 8) await WriteTextAsync(System.Text.Encoding.ASCII.GetBytes(refusal), cancel).ConfigureAwait(false);
            throw new VncException(refusal);
        }
        await ReadExactAsync(1, cancel).ConfigureAwait(false); // whether it shares the screen: it does
        _painted = display.Paint(_painted);
        _size = (_painted.Width, _painted.Height);
        byte[] init = new byte[4 + VncPixelFormat.Size];
        BinaryPrimitives.WriteUInt16BigEndian(init, (ushort)_size.Width);
        BinaryPrimitives.WriteUInt16BigEndian(init.AsSpan(2), (ushort)_size.Height);
        VncPixelFormat.Own.Write(init.AsSpan(4));
        await stream.WriteAsync(init, cancel).ConfigureAwait(false);
        await WriteTextAsync(System.Text.Encoding.UTF8.GetBytes(name), cancel).ConfigureAwait(false);
    }

    /// <summary>Section 7.2.2: the challenge is encrypted by the password, the bits of whose bytes are turned around.</summary>
    private async Task<bool> ChallengeAsync(Func<byte[]?> password, CancellationToken cancel)
    {
        byte[] challenge = RandomNumberGenerator.GetBytes(VncProtocol.ChallengeLength), expected = new byte[VncProtocol.ChallengeLength];
        await stream.WriteAsync(challenge, cancel).ConfigureAwait(false);
        await ReadExactAsync(VncProtocol.ChallengeLength, cancel).ConfigureAwait(false);
        if (password() is not { } word) return false;
        byte[] key = new byte[Des.BlockSize];
        for (int n = 0; n < Math.Min(word.Length, key.Length); n++)
        {
            for (int bit = 0; bit < 8; bit++) key[n] |= (byte)((word[n] >> bit & 1) << 7 - bit);
        }
        for (int at = 0; at < challenge.Length; at += Des.BlockSize) Des.Encrypt(key, challenge.AsSpan(at, Des.BlockSize), expected.AsSpan(at));
        return CryptographicOperations.FixedTimeEquals(expected, _in.AsSpan(0, expected.Length));
    }

    private async Task WriteTextAsync(byte[] text, CancellationToken cancel)
    {
        byte[] message = new byte[4 + text.Length];
        BinaryPrimitives.WriteInt32BigEndian(message, text.Length);
        text.CopyTo(message, 4);
        await stream.WriteAsync(message, cancel).ConfigureAwait(false);
    }

    // ---- what the viewer says

    private async Task ReadExactAsync(int count, CancellationToken cancel) =>
        await stream.ReadExactlyAsync(_in.AsMemory(0, count), cancel).ConfigureAwait(false);

    private ushort Word(int at) => BinaryPrimitives.ReadUInt16BigEndian(_in.AsSpan(at));

    private uint Long(int at) => BinaryPrimitives.ReadUInt32BigEndian(_in.AsSpan(at));

    private async Task ReadAsync(CancellationToken cancel)
    {
        while (true)
        {
            await ReadExactAsync(1, cancel).ConfigureAwait(false);
            switch (_in[0])
            {
                case VncProtocol.SetPixelFormat:
                    await ReadExactAsync(3 + VncPixelFormat.Size, cancel).ConfigureAwait(false);
                    TakeFormat();
                    break;
                case VncProtocol.SetEncodings:
                    await ReadEncodingsAsync(cancel).ConfigureAwait(false);
                    break;
                case VncProtocol.UpdateRequest:
                    await ReadExactAsync(9, cancel).ConfigureAwait(false);
                    TakeRequest(new(Word(1), Word(3), Word(5), Word(7)), isWhole: _in[0] == 0);
                    break;
                case VncProtocol.KeyEvent:
                    await ReadExactAsync(7, cancel).ConfigureAwait(false);
                    await TypeSymbolAsync(Long(3), _in[0] != 0, cancel).ConfigureAwait(false);
                    break;
                case VncProtocol.PointerEvent:
                    await ReadExactAsync(5, cancel).ConfigureAwait(false);
                    Point(_in[0], Word(1), Word(3));
                    break;
                case VncProtocol.CutText:
                    await ReadExactAsync(7, cancel).ConfigureAwait(false);
                    await SkipAsync(Long(3), cancel).ConfigureAwait(false); // the guest has no clipboard that we know
                    break;
                case VncProtocol.SetDesktopSize:
                    await ReadExactAsync(7, cancel).ConfigureAwait(false);
                    await SkipAsync(16u * _in[5], cancel).ConfigureAwait(false);
                    lock (_lock) _tellSize = _knowsExtendedSize; // the guest alone says how large its screen is
                    _wake.Release();
                    break;
                case VncProtocol.Qemu:
                    await ReadExactAsync(1, cancel).ConfigureAwait(false);
                    if (_in[0] != VncProtocol.QemuExtendedKey) throw new VncException($"message 255 of kind {_in[0]}");
                    await ReadExactAsync(10, cancel).ConfigureAwait(false);
                    if (Long(6) is > 0 and <= byte.MaxValue) await TypeAsync((byte)Long(6), Word(0) != 0, cancel).ConfigureAwait(false);
                    break;
                default:
                    throw new VncException($"message {_in[0]}");
            }
        }
    }

    private async Task SkipAsync(uint count, CancellationToken cancel)
    {
        if (count > MostText) throw new VncException($"a text of {count} bytes");
        while (count > 0)
        {
            int piece = (int)Math.Min(count, _in.Length);
            await ReadExactAsync(piece, cancel).ConfigureAwait(false);
            count -= (uint)piece;
        }
    }

    private void TakeFormat()
    {
        VncPixelFormat format = VncPixelFormat.Read(_in.AsSpan(3, VncPixelFormat.Size), out bool usesMap);
        lock (_lock) (_format, _tellMap) = (format, usesMap);
    }

    private async Task ReadEncodingsAsync(CancellationToken cancel)
    {
        await ReadExactAsync(3, cancel).ConfigureAwait(false);
        bool zrle = false, size = false, extended = false, keys = false, decided = false;
        for (int left = Word(1); left > 0; left--)
        {
            await ReadExactAsync(4, cancel).ConfigureAwait(false);
            switch ((int)Long(0))
            {
                case VncProtocol.Zrle when !decided:
                    (zrle, decided) = (true, true);
                    break;
                case VncProtocol.Raw:
                    decided = true; // the viewer likes what it names first
                    break;
                case VncProtocol.DesktopSize:
                    size = true;
                    break;
                case VncProtocol.ExtendedDesktopSize:
                    extended = true;
                    break;
                case VncProtocol.QemuKeys:
                    keys = true;
                    break;
            }
        }
        lock (_lock)
        {
            _tellKeys |= keys && !_knowsKeys;
            _tellSize |= extended && !_knowsExtendedSize;
            (_usesZrle, _knowsSize, _knowsExtendedSize, _knowsKeys) = (zrle, size, extended, keys);
        }
    }

    private void TakeRequest(VncRectangle part, bool isWhole)
    {
        lock (_lock)
        {
            // One that waits still is answered with this one.
            if (_request is { } waits)
            {
                int right = Math.Max(waits.Part.X + waits.Part.Width, part.X + part.Width);
                int bottom = Math.Max(waits.Part.Y + waits.Part.Height, part.Y + part.Height);
                (int x, int y) = (Math.Min(waits.Part.X, part.X), Math.Min(waits.Part.Y, part.Y));
                (part, isWhole) = (new(x, y, right - x, bottom - y), isWhole || waits.IsWhole);
            }
            _request = new Request(part, isWhole);
        }
        _wake.Release();
    }

    /// <summary>The character is wanted, whatever shift keys the viewer's keyboard needs for it.</summary>
    private async Task TypeSymbolAsync(uint symbol, bool down, CancellationToken cancel)
    {
        if (VncKeys.Find(symbol, out bool? needsShift) is not { } key) return;
        byte[] held = [.. _down.Where(k => k is VncKeys.LeftShift or VncKeys.RightShift)];
        // With a modifier it is the key that is meant.
        bool differs = down && needsShift is { } shift && shift != held.Length > 0 && !_down.Any(IsCommand);
        if (differs) await ShiftAsync(held, down: held.Length == 0, cancel).ConfigureAwait(false);
        await TypeAsync(key, down, cancel).ConfigureAwait(false);
        if (differs) await ShiftAsync(held, down: held.Length > 0, cancel).ConfigureAwait(false);
    }

    private static bool IsCommand(byte key)
    {
        const byte control = 0x1D, alt = 0x38, notExtended = 0x7F;
        return (key & notExtended) is control or alt;
    }

    private async Task ShiftAsync(byte[] held, bool down, CancellationToken cancel)
    {
        foreach (byte key in held.Length > 0 ? held : [VncKeys.LeftShift]) await SendAsync(VncKeys.ScanCodes(key, down), cancel).ConfigureAwait(false);
    }

    private async Task TypeAsync(byte key, bool down, CancellationToken cancel)
    {
        if (down) _down.Add(key);
        else _down.Remove(key);
        await SendAsync(VncKeys.ScanCodes(key, down), cancel).ConfigureAwait(false);
    }

    /// <summary>A keyboard holds a few keys alone: what is typed faster than the guest reads waits a little.</summary>
    private async Task SendAsync(byte[] codes, CancellationToken cancel)
    {
        const int look = 4; // ms
        long end = Environment.TickCount64 + (long)s_typing.TotalMilliseconds;
        while (!input.TryType(codes) && Environment.TickCount64 < end) await Task.Delay(look, cancel).ConfigureAwait(false);
    }

    /// <summary>Section 7.5.5: buttons from the left to the right one, and the wheel as two more.</summary>
    private void Point(byte mask, int x, int y)
    {
        byte pressed = (byte)(mask & ~_buttons), buttons = (byte)(mask & 1 | mask >> 1 & 2 | mask << 1 & 4);
        _buttons = mask;
        int wheel = ((pressed & WheelUp) != 0 ? 1 : 0) - ((pressed & WheelDown) != 0 ? 1 : 0);
        (int width, int height) = Size;
        input.Point(x, y, width, height, buttons, wheel);
    }

    // ---- what it is shown

    private async Task WriteAsync(CancellationToken cancel)
    {
        TimeSpan pause = s_shortest;
        while (true)
        {
            bool woken = await _wake.WaitAsync(Waiting ? pause : Timeout.InfiniteTimeSpan, cancel).ConfigureAwait(false);
            while (_wake.Wait(0, CancellationToken.None))
            {
            }
            bool sent = await TellAsync(cancel).ConfigureAwait(false) | await UpdateAsync(cancel).ConfigureAwait(false);
            if (sent) await Task.Delay(s_shortest, cancel).ConfigureAwait(false); // no viewer needs more, and the guest has other work
            pause = sent || woken ? s_shortest : pause < s_longest ? pause * 1.2 : s_longest;
        }
    }

    private bool Waiting
    {
        get
        {
            lock (_lock) return _request is not null;
        }
    }

    /// <summary>What is told beside pixels.</summary>
    private async Task<bool> TellAsync(CancellationToken cancel)
    {
        bool map, keys, size;
        lock (_lock)
        {
            (map, keys, size) = (_tellMap, _tellKeys, _tellSize);
            _tellMap = _tellKeys = _tellSize = false;
        }
        if (map) await stream.WriteAsync(ColorMap(), cancel).ConfigureAwait(false);
        if (keys) await WriteUpdateAsync([(default, VncProtocol.QemuKeys)], cancel).ConfigureAwait(false);
        if (size) await TellSizeAsync(reason: 0, status: 0, cancel).ConfigureAwait(false);
        return map || keys || size;
    }

    private static byte[] ColorMap()
    {
        VncPixelFormat format = VncPixelFormat.Mapped;
        byte[] message = new byte[6 + 6 * 256];
        message[0] = VncProtocol.SetColorMap;
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(4), 256);
        for (int n = 0; n < 256; n++)
        {
            Span<byte> entry = message.AsSpan(6 + 6 * n, 6);
            BinaryPrimitives.WriteUInt16BigEndian(entry, (ushort)((n >> format.RedShift & format.RedMax) * 0xFFFF / format.RedMax));
            BinaryPrimitives.WriteUInt16BigEndian(entry[2..], (ushort)((n >> format.GreenShift & format.GreenMax) * 0xFFFF / format.GreenMax));
            BinaryPrimitives.WriteUInt16BigEndian(entry[4..], (ushort)((n >> format.BlueShift & format.BlueMax) * 0xFFFF / format.BlueMax));
        }
        return message;
    }

    /// <summary>The extended desktop size: one screen, as large as all.</summary>
    private async Task TellSizeAsync(int reason, int status, CancellationToken cancel)
    {
        byte[] message = new byte[4 + 12 + 4 + 16];
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), 1);
        WriteHeader(message.AsSpan(4), new(reason, status, _size.Width, _size.Height), VncProtocol.ExtendedDesktopSize);
        message[16] = 1;
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(28), (ushort)_size.Width);
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(30), (ushort)_size.Height);
        await stream.WriteAsync(message, cancel).ConfigureAwait(false);
    }

    private static void WriteHeader(Span<byte> to, in VncRectangle r, int encoding)
    {
        BinaryPrimitives.WriteUInt16BigEndian(to, (ushort)r.X);
        BinaryPrimitives.WriteUInt16BigEndian(to[2..], (ushort)r.Y);
        BinaryPrimitives.WriteUInt16BigEndian(to[4..], (ushort)r.Width);
        BinaryPrimitives.WriteUInt16BigEndian(to[6..], (ushort)r.Height);
        BinaryPrimitives.WriteInt32BigEndian(to[8..], encoding);
    }

    /// <summary>Answers a request; false when nothing that it asks for has changed.</summary>
    private async Task<bool> UpdateAsync(CancellationToken cancel)
    {
        Request? request;
        bool zrle, knowsSize, knowsExtended;
        VncPixelFormat format;
        lock (_lock) (request, format, zrle, knowsSize, knowsExtended) = (_request, _format, _usesZrle, _knowsSize, _knowsExtendedSize);
        if (request is null) return false;
        ScreenImage image = _painted = display.Paint(_painted);
        if ((image.Width, image.Height) != _size)
        {
            if (knowsSize || knowsExtended)
            {
                lock (_lock) (_size, _request) = ((image.Width, image.Height), null);
                _shown = null;
                if (knowsExtended) await TellSizeAsync(reason: 0, status: 0, cancel).ConfigureAwait(false);
                else await WriteUpdateAsync([(new(0, 0, image.Width, image.Height), VncProtocol.DesktopSize)], cancel).ConfigureAwait(false);
                return true;
            }
            image = Fit(image);
        }
        List<VncRectangle> changed = Changes(image, request);
        if (changed.Count == 0) return false;
        lock (_lock)
        {
            if (_request == request) _request = null;
        }
        int encoding = zrle ? VncProtocol.Zrle : VncProtocol.Raw;
        await WriteUpdateHeaderAsync(changed.Count, cancel).ConfigureAwait(false);
        byte[] header = new byte[16];
        foreach (VncRectangle r in changed)
        {
            WriteHeader(header, r, encoding);
            ReadOnlyMemory<byte> data = zrle ? _encoder.EncodeZrle(image, r, format) : _encoder.EncodeRaw(image, r, format);
            BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(12), data.Length);
            await stream.WriteAsync(header.AsMemory(0, zrle ? 16 : 12), cancel).ConfigureAwait(false);
            await stream.WriteAsync(data, cancel).ConfigureAwait(false);
            for (int y = r.Y; y < r.Y + r.Height; y++) image.Line(y).Slice(r.X, r.Width).CopyTo(_shown!.Line(y)[r.X..]);
        }
        return true;
    }

    /// <summary>A viewer that cannot change its size sees what has room there.</summary>
    private ScreenImage Fit(ScreenImage image)
    {
        var fit = new ScreenImage(_size.Width, _size.Height);
        int width = Math.Min(image.Width, fit.Width);
        for (int y = 0; y < Math.Min(image.Height, fit.Height); y++) image.Line(y)[..width].CopyTo(fit.Line(y));
        return fit;
    }

    /// <summary>
    /// Tiles that differ from what the viewer was shown, those beside each other together. Pages that were written would say less: what shows as pixels differs
    /// from mode to mode, and most engines would have to take rights to pages away to know them.
    /// </summary>
    private List<VncRectangle> Changes(ScreenImage image, Request request)
    {
        const int tile = VncProtocol.Tile;
        bool whole = request.IsWhole;
        if (_shown is null || (_shown.Width, _shown.Height) != (image.Width, image.Height))
            (_shown, whole) = (new ScreenImage(image.Width, image.Height), true);
        int right = Math.Min(request.Part.X + request.Part.Width, image.Width), bottom = Math.Min(request.Part.Y + request.Part.Height, image.Height);
        var changed = new List<VncRectangle>();
        for (int y = request.Part.Y / tile * tile; y < bottom; y += tile)
        {
            int first = -1, height = Math.Min(tile, image.Height - y);
            for (int x = request.Part.X / tile * tile; x < right; x += tile)
            {
                int width = Math.Min(tile, image.Width - x);
                if (whole || Differs(image, new(x, y, width, height)))
                {
                    if (first < 0) first = x;
                }
                else if (first >= 0)
                {
                    changed.Add(new(first, y, x - first, height));
                    first = -1;
                }
            }
            if (first >= 0) changed.Add(new(first, y, Math.Min((right + tile - 1) / tile * tile, image.Width) - first, height));
        }
        return changed;
    }

    private bool Differs(ScreenImage image, in VncRectangle r)
    {
        for (int y = r.Y; y < r.Y + r.Height; y++)
        {
            if (!image.Line(y).Slice(r.X, r.Width).SequenceEqual(_shown!.Line(y).Slice(r.X, r.Width))) return true;
        }
        return false;
    }

    private async Task WriteUpdateHeaderAsync(int count, CancellationToken cancel)
    {
        byte[] message = new byte[4];
        message[0] = VncProtocol.Update;
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), (ushort)count);
        await stream.WriteAsync(message, cancel).ConfigureAwait(false);
    }

    /// <summary>An update of rectangles without pixels.</summary>
    private async Task WriteUpdateAsync((VncRectangle Part, int Encoding)[] rectangles, CancellationToken cancel)
    {
        await WriteUpdateHeaderAsync(rectangles.Length, cancel).ConfigureAwait(false);
        byte[] header = new byte[12];
        foreach ((VncRectangle part, int encoding) in rectangles)
        {
            WriteHeader(header, part, encoding);
            await stream.WriteAsync(header, cancel).ConfigureAwait(false);
        }
    }

    public void Dispose()
    {
        _encoder.Dispose();
        _wake.Dispose();
    }
}
