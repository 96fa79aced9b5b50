using System.Buffers.Binary;
using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Machine.Tests.State;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Files;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>
/// A guest with one shared folder: the driver's side of the file system device (Virtual I/O Device (VIRTIO) Version 1.3, section 5.11), and FUSE requests
/// written byte by byte after linux/fuse.h.
/// </summary>
internal sealed class FuseGuest : IDisposable
{
    public const int Slot = 5;
    private const ulong Rings = 0x10_0000, RingStride = 0x4_0000, Messages = 0x20_0000, Answers = 0x30_0000;
    private const int Header = 16;
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(2);

    private readonly SharedFolder _folder;
    private readonly VirtioFeatures _ring;
    private readonly int _queueCount;
    private TestQueue[] _queues = [];
    private ulong _unique;

    public FuseGuest(SharedFolder folder, VirtioFeatures ring = VirtioFeatures.Version1, int queues = 1, bool mounts = true)
    {
        (_folder, _ring, _queueCount) = (folder, ring, queues);
        Device = new FileSystemDevice("fs0", folder, "tag", queues);
        Rig = new BoardRig(0, new VirtioPart(Device, Slot));
        Driver = new VirtioDriver(Rig, Slot);
        SetUp();
        Rig.Machine.Resume();
        if (mounts) Mount();
    }

    public FileSystemDevice Device { get; }
    public BoardRig Rig { get; }
    public VirtioDriver Driver { get; }

    /// <summary>Begins anew, as a driver that finds the device.</summary>
    public void SetUp()
    {
        Assert.True(Driver.Negotiate((ulong)_ring));
        Rig.Machine.Memory.Write(Rings, new byte[RingStride * (ulong)(_queueCount + 1)]);
        _queues = [.. Enumerable.Range(0, _queueCount + 1).Select(n => Driver.SetUp(n, 64, Rings + (ulong)n * RingStride, _ring))];
        Driver.SetDriverOk();
    }

    /// <summary>INIT as Linux 6.1 sends it.</summary>
    public FuseInitOut Mount(uint flags = 0x73FF_FFFB, uint major = 7, uint minor = 37)
    {
        byte[] answer = Call(FuseOpcode.Init, 0, Bytes(major, minor, 131072u, flags, new byte[48]), 64);
        return MemoryMarshal.Read<FuseInitOut>(answer);
    }

    /// <summary>Little-endian fields, one behind the other: numbers of their width, texts with a NUL, bytes as they are.</summary>
    public static byte[] Bytes(params ReadOnlySpan<object> fields)
    {
        var all = new List<byte>();
        foreach (object field in fields)
        {
            all.AddRange(field switch
            {
                uint n => BitConverter.GetBytes(n),
                ulong n => BitConverter.GetBytes(n),
                string text => [.. Encoding.UTF8.GetBytes(text), 0],
                byte[] bytes => bytes,
                _ => throw new ArgumentException($"{field.GetType()}"),
            });
        }
        return [.. all];
    }

    /// <summary>Sends a request and waits for its answer, which must be no error.</summary>
    /// <param name="room">For the answer behind its header.</param>
    public byte[] Call(FuseOpcode opcode, ulong node, byte[] body, int room, uint user = 0, uint group = 0, int queue = 1)
    {
        byte[] answer = Try(opcode, node, body, room, out int error, user, group, queue);
        Assert.True(error == 0, $"{opcode}: error {error}");
        return answer;
    }

    /// <summary>Sends a request and waits for its answer: 0, or an error number.</summary>
    public int Error(FuseOpcode opcode, ulong node, byte[] body, int room = 256, uint user = 0, uint group = 0)
    {
        Try(opcode, node, body, room, out int error, user, group);
        return error;
    }

    public byte[] Try(FuseOpcode opcode, ulong node, byte[] body, int room, out int error, uint user = 0, uint group = 0, int queue = 1)
    {
        ulong unique = ++_unique;
        byte[] message = Bytes((uint)(40 + body.Length), (uint)opcode, unique, node, user, group, 1u, 0u, body);
        (byte[] answer, uint written) = Send(message, Header + room, queue);
        Assert.InRange(written, (uint)Header, (uint)(Header + room));
        Assert.Equal(written, BinaryPrimitives.ReadUInt32LittleEndian(answer));
        Assert.Equal(unique, BinaryPrimitives.ReadUInt64LittleEndian(answer.AsSpan(8)));
        error = -BinaryPrimitives.ReadInt32LittleEndian(answer.AsSpan(4));
        if (error != 0) Assert.Equal((uint)Header, written);
        return answer[Header..(int)written];
    }

    /// <summary>Sends what nobody answers.</summary>
    public void Tell(FuseOpcode opcode, ulong node, byte[] body, int queue = 0) =>
        Assert.Equal(0u, Send(Bytes((uint)(40 + body.Length), (uint)opcode, ++_unique, node, 0u, 0u, 1u, 0u, body), 0, queue).Written);

    /// <summary>Any bytes, in two pieces each way.</summary>
    public (byte[] Answer, uint Written) Send(byte[] message, int room, int queue)
    {
        int id = Post(message, room, queue);
        int used = 0;
        uint written = 0;
        Assert.True(SpinWait.SpinUntil(() => _queues[queue].TryTakeUsed(out used, out written), s_longest), "no answer");
        Assert.Equal(id, used);
        byte[] answer = new byte[room];
        Rig.Machine.Memory.Read(Answers, answer);
        return (answer, written);
    }

    /// <summary>The same without waiting.</summary>
    public int Post(byte[] message, int room, int queue)
    {
        Rig.Machine.Memory.Write(Messages, message);
        var pieces = new List<(ulong, uint, bool)> { (Messages, 10, false), (Messages + 10, (uint)message.Length - 10, false) };
        if (room > 3) pieces.AddRange([(Answers, 3, true), (Answers + 3, (uint)room - 3, true)]);
        int id = _queues[queue].Add(CollectionsMarshal.AsSpan(pieces));
        Driver.Notify(queue);
        return id;
    }

    public bool TryTakeUsed(int queue) => _queues[queue].TryTakeUsed(out _, out _);

    public FuseEntryOut Lookup(ulong folder, string name) => Entry(Call(FuseOpcode.Lookup, folder, Bytes(name), 128));

    public static FuseEntryOut Entry(byte[] answer) => MemoryMarshal.Read<FuseEntryOut>(answer);

    public FuseAttributes Attributes(ulong node) =>
        MemoryMarshal.Read<FuseAttributesOut>(Call(FuseOpcode.GetAttributes, node, new byte[16], 104)).Attributes;

    /// <summary>CREATE. Returns node and handle.</summary>
    public (ulong Node, ulong Handle) Create(ulong folder, string name, uint mode = 0x1A4, uint flags = 2, uint user = 0, uint group = 0)
    {
        byte[] answer = Call(FuseOpcode.Create, folder, Bytes(flags | 0x40, 0x8000 | mode, 0x12u, 0u, name), 144, user, group);
        return (Entry(answer).Node, BinaryPrimitives.ReadUInt64LittleEndian(answer.AsSpan(128)));
    }

    public ulong Open(ulong node, uint flags = 0) => BinaryPrimitives.ReadUInt64LittleEndian(Call(FuseOpcode.Open, node, Bytes(flags, 0u), 16));

    public byte[] Read(ulong node, ulong handle, ulong offset, uint size) =>
        Call(FuseOpcode.Read, node, Bytes(handle, offset, size, 0u, 0ul, 0u, 0u), (int)size);

    public static byte[] WriteBody(ulong handle, ulong offset, byte[] bytes, uint transferFlags = 0, uint flags = 2) =>
        Bytes(handle, offset, (uint)bytes.Length, transferFlags, 0ul, flags, 0u, bytes);

    public uint Write(ulong node, ulong handle, ulong offset, byte[] bytes, uint transferFlags = 0, uint flags = 2) =>
        BinaryPrimitives.ReadUInt32LittleEndian(Call(FuseOpcode.Write, node, WriteBody(handle, offset, bytes, transferFlags, flags), 8));

    /// <summary>SETATTR.</summary>
    public static byte[] SetBody(FuseSet valid, uint mode = 0, uint user = 0, uint group = 0, ulong size = 0, ulong handle = 0, ulong modified = 0) =>
        Bytes((uint)valid, 0u, handle, size, 0ul, 0ul, modified, 0ul, 0u, 5u, 0u, mode, 0u, user, group, 0u);

    /// <summary>All names of a folder, with READDIR or READDIRPLUS and so much room for each answer.</summary>
    public List<(string Name, FuseEntryOut Entry, FuseFolderEntry Own)> List(ulong node, int room, bool plus)
    {
        ulong handle = BinaryPrimitives.ReadUInt64LittleEndian(Call(FuseOpcode.OpenFolder, node, new byte[8], 16)), offset = 0;
        var all = new List<(string, FuseEntryOut, FuseFolderEntry)>();
        while (true)
        {
            byte[] answer = Call(plus ? FuseOpcode.ReadFolderPlus : FuseOpcode.ReadFolder, node, Bytes(handle, offset, (uint)room, 0u, 0ul, 0u, 0u), room);
            if (answer.Length == 0) break;
            for (int at = 0; at < answer.Length;)
            {
                FuseEntryOut entry = default;
                if (plus)
                {
                    entry = Entry(answer[at..]);
                    at += Unsafe.SizeOf<FuseEntryOut>();
                }
                FuseFolderEntry own = MemoryMarshal.Read<FuseFolderEntry>(answer.AsSpan(at));
                all.Add((Encoding.UTF8.GetString(answer, at + 24, (int)own.NameLength), entry, own));
                at += FuseFolderEntry.Length((int)own.NameLength);
                offset = own.Offset;
            }
        }
        Call(FuseOpcode.ReleaseFolder, node, Bytes(handle, 0u, 0u, 0ul), 0);
        return all;
    }

    public void Dispose()
    {
        Rig.Dispose();
        Device.Dispose();
        _folder.Dispose();
    }
}

/// <summary>A folder to be shared, beside something that no guest may touch.</summary>
internal sealed class HostFolder : IDisposable
{
    private const string Secret = "nothing of the guest's";

    public HostFolder()
    {
        Whole = Directory.CreateTempSubdirectory("bunraku-share").FullName;
        Path = Directory.CreateDirectory(System.IO.Path.Combine(Whole, "shared")).FullName;
        Outside = Directory.CreateDirectory(System.IO.Path.Combine(Whole, "outside")).FullName;
        File.WriteAllText(System.IO.Path.Combine(Outside, "secret"), Secret);
    }

    public string Whole { get; }
    public string Path { get; }
    public string Outside { get; }

    public string this[string name] => System.IO.Path.Combine(Path, name);

    /// <summary>Makes a FIFO.</summary>
    public void MakeFifo(string name)
    {
        using Process make = Process.Start("mkfifo", this[name]);
        make.WaitForExit();
    }

    /// <summary>Makes what a hostile client may stumble over: a link that leads outside, a folder, and a FIFO, which waits for whoever opens it.</summary>
    public void MakeTraps()
    {
        File.CreateSymbolicLink(this["out"], "../outside");
        Directory.CreateDirectory(this["a"]);
        MakeFifo("fifo");
    }

    /// <summary>What lies beside the folder is as it was.</summary>
    public void AssertOutsideUntouched()
    {
        Assert.Equal(["outside", "shared"], Directory.GetFileSystemEntries(Whole).Select(System.IO.Path.GetFileName).Order());
        Assert.Equal(["secret"], Directory.GetFileSystemEntries(Outside).Select(System.IO.Path.GetFileName));
        Assert.Equal(Secret, File.ReadAllText(System.IO.Path.Combine(Outside, "secret")));
    }

    /// <summary>Not by the runtime, which cannot name what a guest may call its files.</summary>
    public void Dispose()
    {
        using Process remove = Process.Start("rm", ["-rf", Whole]);
        remove.WaitForExit();
    }
}
