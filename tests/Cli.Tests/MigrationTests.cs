using System.Buffers.Binary;
using System.Globalization;
using System.Net.Sockets;
using System.Numerics;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Sessions.Migration;
using Bunraku.Storage;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>VMs that go from one machine to another while their guests compute: what they compute and print is what they would have anyway.</summary>
public sealed class MigrationTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private const uint Factor = 1_103_515_245, Summand = 12_345, Base = 0x20_0000, Bytes = 4 << 20;
    private const int LetterEvery = 1 << 20;
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(1);

    /// <summary>
    /// Adds random numbers to random words of 4 MiB, prints the next letter each so many steps, and when it is sent a byte, the number of steps and a sum of
    /// all memory that it has changed.
    /// </summary>
    private readonly TemporaryFile _computes = new(TestKernel.Assemble(a =>
    {
        Label step = a.CreateLabel(), silent = a.CreateLabel(), letter = a.CreateLabel(), sum = a.CreateLabel(), hex = a.CreateLabel(), digit = a.CreateLabel(),
            isLetter = a.CreateLabel(), done = a.CreateLabel();
        TestKernel.Out(a, 0x3FB, 3); // 8 bits
        TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
        a.mov(esp, 0x9_0000);
        a.mov(ebx, 1);
        a.xor(ebp, ebp);
        a.mov(ecx, 'a');
        a.Label(ref step);
        a.imul(ebx, ebx, (int)Factor);
        a.add(ebx, (int)Summand);
        a.mov(edi, ebx);
        a.shr(edi, 8);
        a.and(edi, (int)(Bytes - 1) & ~3);
        a.add(__dword_ptr[edi + Base], ebx);
        a.inc(ebp);
        a.test(ebp, LetterEvery - 1);
        a.jnz(silent);
        a.mov(dx, (ushort)0x3F8);
        a.mov(al, cl);
        a.@out(dx, al);
        a.inc(ecx);
        a.cmp(ecx, 'z' + 1);
        a.jb(letter);
        a.mov(ecx, 'a');
        a.Label(ref letter);
        a.mov(dx, (ushort)0x3FD);
        a.@in(al, dx);
        a.test(al, 1);
        a.jnz(done);
        a.Label(ref silent);
        a.jmp(step);

        a.Label(ref done);
        a.xor(ebx, ebx);
        a.mov(esi, (int)Base);
        a.Label(ref sum);
        a.rol(ebx, 1);
        a.add(ebx, __dword_ptr[esi]);
        a.add(esi, 4);
        a.cmp(esi, (int)(Base + Bytes));
        a.jb(sum);
        foreach (AssemblerRegister32 number in (AssemblerRegister32[])[ebp, ebx])
        {
            a.mov(esi, number);
            a.call(hex);
        }
        TestKernel.Out(a, 0xF4, 0);
        TestKernel.Loop(a);

        a.Label(ref hex); // ESI in 8 digits
        a.mov(ecx, 8);
        a.mov(dx, (ushort)0x3F8);
        a.Label(ref digit);
        a.rol(esi, 4);
        a.mov(eax, esi);
        a.and(eax, 15);
        a.add(eax, '0');
        a.cmp(eax, '9' + 1);
        a.jb(isLetter);
        a.add(eax, 'A' - '9' - 1);
        a.Label(ref isLetter);
        a.@out(dx, al);
        a.dec(ecx);
        a.jnz(digit);
        a.ret();
    }));

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-migration-").FullName;
    private readonly CancellationTokenSource _cancel = new(s_limit);

    public void Dispose()
    {
        _computes.Dispose();
        _cancel.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>What the guest prints when it is sent a byte after some letters.</summary>
    private static void CheckOutput(string output)
    {
        const int digits = 16;
        Assert.True(output.Length > digits, output);
        string letters = output[..^digits];
        for (int n = 0; n < letters.Length; n++) Assert.True(letters[n] == 'a' + n % 26, $"the letter {n} of {output}");
        uint steps = uint.Parse(output.AsSpan(letters.Length, 8), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
        Assert.Equal((uint)letters.Length * LetterEvery, steps);
        uint[] memory = new uint[Bytes / 4];
        uint x = 1, sum = 0;
        for (uint n = 0; n < steps; n++)
        {
            x = x * Factor + Summand;
            memory[(x >> 8 & (Bytes - 1)) / 4] += x;
        }
        foreach (uint word in memory) sum = BitOperations.RotateLeft(sum, 1) + word;
        Assert.Equal(sum.ToString("X8", CultureInfo.InvariantCulture), output[^8..]);
    }

    private VmBuilder Builder(string engine, Stream output) => new(KnownEngines.All)
    {
        Engine = engine,
        Kernel = _computes.Path,
        Memory = 16 << 20,
        DebugExit = true,
        Output = output,
    };

    private (Stream One, Stream Other) Pair()
    {
        string path = Path.Combine(_folder, Guid.NewGuid().ToString("N")[..8]);
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(1);
        var one = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        one.Connect(new UnixDomainSocketEndPoint(path));
        return (new NetworkStream(one, ownsSocket: true), new NetworkStream(listener.Accept(), ownsSocket: true));
    }

    [Theory]
    [InlineData("bt", "interp")]
    [InlineData("bt", "bt")]
    [InlineData("interp", "bt")]
    public async Task A_guest_that_writes_memory_all_the_time_goes_on_in_another_machine(string from, string to)
    {
        GuestOutput here = new(), there = new();
        (Stream one, Stream other) = Pair();
        await using Vm vm = Builder(from, here).Build();
        Task<VmResult> run = vm.RunAsync(_cancel.Token);
        await here.Await(t => t.Length > 0, _cancel.Token);
        Task<Vm> receiving = Vm.ReceiveAsync(other, new VmBuilder(KnownEngines.All) { Engine = to, Output = there }, cancel: _cancel.Token);
        MigrationResult moved = await vm.MigrateAsync(one, new MigrationOptions { MostRounds = 4 }, _cancel.Token);
        Assert.True(moved.Rounds is >= 1 and <= 4 && moved.Pages >= Bytes / 4096, moved.ToString());
        await using Vm next = await receiving;
        Assert.Equal((to, VmState.Created), (next.EngineName, next.State));
        VmResult left = await run;
        Assert.Equal((HostEnd.Migrated, 0), (left.HostEnd, left.ExitStatus));
        int letters = here.Text.Length;

        Task<VmResult> goesOn = next.RunAsync(_cancel.Token);
        await there.Await(t => t.Length > 0, _cancel.Token);
        next.SendConsole("q"u8);
        Assert.Equal(StopReason.DebugExit, (await goesOn).Cause.Reason);
        CheckOutput(here.Text + there.Text);
        Assert.Equal(letters, here.Text.Length);
    }

    /// <summary>The kinds of messages, and which end sends them.</summary>
    public static TheoryData<string> Messages => [.. Enum.GetNames<MigrationMessage>().Where(m => m is not ("Failed" or "Zeros"))];

    [Theory, MemberData(nameof(Messages))]
    public async Task A_connection_that_breaks_leaves_exactly_one_guest_that_goes_on(string message)
    {
        GuestOutput here = new(), there = new();
        (Stream one, Stream other) = Pair();
        await using Vm vm = Builder("bt", here).Build();
        Task<VmResult> run = vm.RunAsync(_cancel.Token);
        await here.Await(t => t.Length > 0, _cancel.Token);
        int cuts = 0;
        Action<MigrationMessage> Cut(Stream stream) => kind =>
        {
            if (kind.ToString() != message) return;
            cuts++;
            stream.Dispose();
        };
        Task<Vm> receiving =
            Vm.ReceiveAsync(other, new VmBuilder(KnownEngines.All) { Engine = "bt", Output = there }, null, Cut(other), _cancel.Token);
        Task<MigrationResult> moving = vm.MigrateAsync(one, new MigrationOptions { MostRounds = 2 }, Cut(one), _cancel.Token);
        Exception? sender = await Record.ExceptionAsync(() => moving), receiver = await Record.ExceptionAsync(() => receiving);
        Assert.Equal(1, cuts);
        bool moved = message == nameof(MigrationMessage.Running);
        Assert.Equal((moved, moved), (sender is null, receiver is null));
        if (moved)
        {
            Assert.Equal(HostEnd.Migrated, (await run).HostEnd);
            await using Vm next = await receiving;
            Task<VmResult> goesOn = next.RunAsync(_cancel.Token);
            next.SendConsole("q"u8);
            Assert.Equal(StopReason.DebugExit, (await goesOn).Cause.Reason);
        }
        else
        {
            Assert.IsType<MigrationException>(sender);
            Assert.IsType<MigrationException>(receiver);
            Assert.Equal(VmState.Running, vm.State);
            vm.SendConsole("q"u8);
            Assert.Equal(StopReason.DebugExit, (await run).Cause.Reason);
            Assert.Equal("", there.Text);
        }
        CheckOutput(here.Text + there.Text);
    }

    /// <summary>A stream that keeps what goes through it.</summary>
    private sealed class Tee(Stream inner, MemoryStream? kept, Stream? reads = null) : Stream
    {
        public override bool CanRead => true;
        public override bool CanWrite => true;
        public override bool CanSeek => false;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }
        public override void Flush() => inner.Flush();
        public override int Read(byte[] buffer, int offset, int count) => (reads ?? inner).Read(buffer, offset, count);
        public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) =>
            (reads ?? inner).ReadAsync(buffer, cancellationToken);
        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            kept?.Write(buffer.Span);
            return inner.WriteAsync(buffer, cancellationToken);
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
        public override void SetLength(long value) => throw new NotSupportedException();
    }

    /// <summary>What a stranger sends ends in one line, whatever it is, and makes no VM that the sender has.</summary>
    [Fact]
    public async Task A_stream_that_was_changed_is_refused_or_taken_but_nothing_else()
    {
        using var kept = new MemoryStream();
        (Stream one, Stream other) = Pair();
        using var quiet = new TemporaryFile(TestKernel.Assemble(a => { a.cli(); a.hlt(); }));
        await using (Vm vm = (Builder("interp", Stream.Null) with { Kernel = quiet.Path, Memory = 2 << 20 }).Build())
        {
            Task<VmResult> run = vm.RunAsync(_cancel.Token);
            Task<Vm> receiving = Vm.ReceiveAsync(other, new VmBuilder(KnownEngines.All) { Engine = "interp" }, cancel: _cancel.Token);
            await vm.MigrateAsync(new Tee(one, kept), null, _cancel.Token);
            await using Vm next = await receiving;
            await run;
        }
        byte[] stream = kept.ToArray();
        const int token = 8 + 8 + 4;
        var random = new Random(7);
        int taken = 0, refused = 0;
        List<(int At, int Length)> messages = [];
        for (int at = 0; at < stream.Length;)
        {
            int length = BinaryPrimitives.ReadInt32LittleEndian(stream.AsSpan(at + 4));
            messages.Add((at, length));
            at += 8 + length;
        }
        for (int n = 0; n < 150; n++)
        {
            MigrationClaim claim = MigrationClaim.Create();
            byte[] bytes = [.. stream];
            if (n > 0)
            {
                // A message's header or beginning, where numbers are, or anything in the first and the last but one, which are texts.
                (int at, int length) = messages[random.Next(3) switch { 0 => 0, 1 => messages.Count - 2, _ => random.Next(messages.Count) }];
                for (int k = random.Next(3); k >= 0; k--)
                    bytes[at + (random.Next(3) == 0 ? random.Next(Math.Min(24, 8 + length)) : random.Next(8 + length))] = (byte)random.Next(256);
                if (random.Next(8) == 0) bytes = bytes[..random.Next(bytes.Length)];
            }
            if (bytes.Length > token + 32) Encoding.ASCII.GetBytes(claim.Token).CopyTo(bytes, token);
            try
            {
                await using Vm vm = await Vm.ReceiveAsync(new Tee(Stream.Null, null, new MemoryStream(bytes)), new VmBuilder(KnownEngines.All)
                {
                    Engine = "interp",
                }, cancel: _cancel.Token);
                taken++;
                Assert.False(claim.Exists);
            }
            catch (MigrationException e)
            {
                refused++;
                Assert.DoesNotContain('\n', e.Message);
                Assert.True(claim.TryTake(), "the sender lost its VM");
            }
        }
        Assert.True(taken >= 1 && refused > 50, $"{taken} taken, {refused} refused");
    }

    [Fact]
    public async Task What_cannot_travel_says_why_and_goes_on()
    {
        (Stream one, _) = Pair();
        await using Vm vm = Builder("bt", Stream.Null).Build();
        Task<VmResult> run = vm.RunAsync(_cancel.Token);
        vm.Pause();
        Assert.Contains("it does not run", (await Assert.ThrowsAsync<MigrationException>(() => vm.MigrateAsync(one))).Message, StringComparison.Ordinal);
        vm.Resume();
        Assert.Contains("nobody waits",
            (await Assert.ThrowsAsync<MigrationException>(() => vm.MigrateAsync(MigrationAddress.Parse($"unix:{_folder}/none")))).Message,
            StringComparison.Ordinal);
        vm.SendConsole("q"u8);
        await run;
        foreach (string text in (string[])["", "unix:", "tcp:192.0.2.1:5", "tcp:127.0.0.1", "file:x"])
            Assert.DoesNotContain('\n', Assert.Throws<MigrationException>(() => MigrationAddress.Parse(text)).Message);
    }

    /// <summary>Linux with a disk at both ends: its lock, what was written, the shell and the time come over.</summary>
    [Fact]
    public async Task Linux_goes_on_with_its_shell_and_its_disk()
    {
        string disk = Path.Combine(_folder, "disk.qcow2");
        ImageTools.Create(disk, ImageFormat.Qcow2, 16 << 20, new Storage.Qcow2.Qcow2CreateOptions());
        GuestOutput here = new(), there = new();
        (Stream one, Stream other) = Pair();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = "bt",
            Output = here,
            Memory = 256 << 20,
            Disks = [new VmDisk(new DiskOptions(disk) { Format = ImageFormat.Qcow2 })],
        }.Build();
        Task<VmResult> run = vm.RunAsync(_cancel.Token);
        await here.Await(t => t.Contains("# ", StringComparison.Ordinal), _cancel.Token);
        vm.Send("echo WHAT-WAS-WRITTEN >/dev/vda; A=$((6*7)); date +%s; echo BE''FORE\n"u8);
        await here.Await(t => t.Contains("BEFORE", StringComparison.Ordinal), _cancel.Token);
        Task<Vm> receiving = Vm.ReceiveAsync(other, new VmBuilder(KnownEngines.All) { Engine = "bt", Output = there }, cancel: _cancel.Token);
        await vm.MigrateAsync(one, null, _cancel.Token);
        await using Vm next = await receiving;
        Task<VmResult> goesOn = next.RunAsync(_cancel.Token);
        Assert.Equal(HostEnd.Migrated, (await run).HostEnd);
        next.Send("echo A=$A; head -c 16 /dev/vda; echo; echo x >/dev/vda; sync; dmesg | grep -ci -e lockup -e stall; date +%s; poweroff -f\n"u8);
        VmResult result = await goesOn;
        Assert.True(result.Cause.Reason == StopReason.PowerOff, $"{result.Cause}: {there}");
        Assert.Matches("A=42\r?\nWHAT-WAS-WRITTEN\r?\n0\r?\n[0-9]+", there.Text);
    }
}
